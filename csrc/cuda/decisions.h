// Which products of a tile leave open what the numbers that decide say, and these numbers; for .cu files.
#pragma once
#include <cstdint>

#include "runtime.h"

namespace mmfast {

// The rows that a tile of products is of: row r at x + r * width, column c at others + c * width, and bounds of their
// lengths. The number that decides lies at most error * length * other length away from the product.
template <typename T>
struct TileRows {
  const T* x;
  const T* others;
  const T* x_lengths;
  const T* lengths;
  int64_t width;
  T error;
  bool to_float = false;  // the numbers that decide are rounded to float32
};

#if defined(__CUDACC__) || defined(MMFAST_EMULATED)
// One sum in one order, in float64, so equal rows have equal numbers wherever they lie; the same in every lane.
template <typename T>
__device__ T decisive_product(const T* x, const T* y, int64_t width, int lane) {
  double sum = 0;
  for (int64_t f = lane; f < width; f += kWarp) sum += static_cast<double>(x[f]) * static_cast<double>(y[f]);
  return static_cast<T>(warp_sum(sum));
}
#endif

}  // namespace mmfast
