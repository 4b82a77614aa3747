// Rows divided by their length, and what that does to a gradient.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "simd.h"

namespace mmfast {

template <typename T>
MMFAST_INLINE T dot(const T* x, const T* y, int64_t dim) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum = {};
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) sum += Simd<T>::at(x + d) * Simd<T>::at(y + d);
  T total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  for (; d < dim; ++d) total += x[d] * y[d];
  return total;
}

// unit = x / max(|x|, eps); returns 1 / max(|x|, eps).
template <typename T>
MMFAST_INLINE T unit_row(const T* x, int64_t dim, T eps, T* unit) {
  const T inverse = 1 / std::max(std::sqrt(dot(x, x, dim)), eps);
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) unit[d] = x[d] * inverse;
  return inverse;
}

// grad <- the gradient of x, from that of `out` = scale * unit; a length held at eps is a constant.
template <typename T>
MMFAST_INLINE void unit_row_backward(const T* out, T scale, T inverse, int64_t dim, T eps, T* grad) {
  const T along = inverse < 1 / eps ? dot(out, grad, dim) / (scale * scale) : T(0);
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) grad[d] = (grad[d] - along * out[d]) * inverse;
}

}  // namespace mmfast
