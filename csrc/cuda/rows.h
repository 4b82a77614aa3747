// What kernels do with whole rows: a warp per row, lane l has columns l, l + 32, ...; and sums in a fixed order.
#pragma once
#include <cmath>

#include "runtime.h"

namespace mmfast {

constexpr int kRowThreads = 256;
constexpr int kRowWarps = kRowThreads / kWarp;

__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int64_t first_row() { return int64_t{blockIdx.x} * kRowWarps + threadIdx.x / kWarp; }
__device__ inline int64_t row_step() { return int64_t{gridDim.x} * kRowWarps; }
__device__ inline int64_t first_item() { return int64_t{blockIdx.x} * kRowThreads + threadIdx.x; }
__device__ inline int64_t item_step() { return int64_t{gridDim.x} * kRowThreads; }

template <typename T>
__device__ T warp_dot(const T* x, const T* y, int64_t dim) {
  T sum = 0;
  for (int64_t d = lane_of(); d < dim; d += kWarp) sum += x[d] * y[d];
  return warp_sum(sum);
}

// 1 / max(|x|, eps)
template <typename T>
__device__ T inverse_length(const T* x, int64_t dim, T eps) {
  const T length = std::sqrt(warp_dot(x, x, dim));
  return 1 / (length < eps ? eps : length);
}

// grad <- the gradient of x, from that of unit = x * inverse; a length held at eps is a constant.
template <typename T>
__device__ void unit_backward(const T* x, T inverse, T eps, int64_t dim, T* grad) {
  const T along = inverse < 1 / eps ? warp_dot(x, grad, dim) * inverse * inverse : T(0);
  for (int64_t d = lane_of(); d < dim; d += kWarp) grad[d] = (grad[d] - along * x[d]) * inverse;
}

// The sum over the block, in every thread.
__device__ inline double block_sum(double x) {
  __shared__ double parts[kRowWarps];
  x = warp_sum(x);
  __syncthreads();  // the last sum has been read
  if (lane_of() == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kRowWarps; ++w) total += parts[w];
  return total;
}

// One block: out = scale * the sum of numbers, in an order that depends on their count alone.
template <typename T>
__global__ void sum_kernel(const double* numbers, int64_t count, double scale, T* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kRowThreads) sum += numbers[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = static_cast<T>(scale * sum);
}

}  // namespace mmfast
