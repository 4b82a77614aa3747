// The loops over a row of a feature table, compiled per x86 level.
#include "feature_rows.h"

#include <numeric>

namespace mmfast {
namespace {

template <typename T>
MMFAST_INLINE double sum_of_squares(const T* x, int64_t size) {
  constexpr int kLanes = 16;
  double sum[kLanes] = {};
  int64_t f = 0;
  for (; f + kLanes <= size; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * x[f + lane];
  }
  for (; f < size; ++f) sum[0] += static_cast<double>(x[f]) * x[f];
  return std::accumulate(sum, sum + kLanes, 0.0);
}

template <typename T>
MMFAST_INLINE void scale_all(T* x, int64_t size, double scale) {
  for (int64_t f = 0; f < size; ++f) x[f] = static_cast<T>(x[f] * scale);
}

}  // namespace

MMFAST_CLONES double squared_norm(const float* x, int64_t size) { return sum_of_squares(x, size); }
MMFAST_CLONES double squared_norm(const double* x, int64_t size) { return sum_of_squares(x, size); }
MMFAST_CLONES void scale_row(float* x, int64_t size, double scale) { scale_all(x, size, scale); }
MMFAST_CLONES void scale_row(double* x, int64_t size, double scale) { scale_all(x, size, scale); }

}  // namespace mmfast
