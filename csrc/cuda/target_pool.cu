// TargetMR's pooling (Eq. 20-21): a warp per item; the gradient of the attention by columns, in stretches of items.
#include "rows.h"
#include "target_pool.h"

namespace mmfast {
namespace {

template <typename T>
__global__ void pool_kernel(PoolRows<T> in, const T* target, T* out, T* weights) {
  const int lane = lane_of();
  for (int64_t r = first_row(); r < in.rows; r += row_step()) {
    const int64_t begin = in.ptr[r], end = in.ptr[r + 1];
    T highest = static_cast<T>(-INFINITY), sum = 0;
    for (int64_t k = begin; k < end; ++k) {  // every lane keeps the same running maximum and sum
      const T logit = warp_dot(in.aux + k * in.dim, in.attention, in.dim);
      if (lane == 0) weights[k] = logit;
      const T before = highest;
      highest = logit > highest ? logit : highest;
      sum = sum * std::exp(before - highest) + std::exp(logit - highest);
    }
    __syncwarp();
    for (int64_t k = begin + lane; k < end; k += kWarp) weights[k] = std::exp(weights[k] - highest) / sum;
    __syncwarp();
    for (int64_t d = lane; d < in.dim; d += kWarp) {
      T pooled = 0;
      for (int64_t k = begin; k < end; ++k) pooled += weights[k] * in.aux[k * in.dim + d];
      out[2 * r * in.dim + d] = target[r * in.dim + d];
      out[(2 * r + 1) * in.dim + d] = pooled;
    }
  }
}

// by_logit[k]: the derivative by the logit of value k.
template <typename T>
__global__ void logit_kernel(PoolRows<T> in, const T* grad, const T* weights, T* by_logit, T* grad_aux) {
  const int lane = lane_of();
  for (int64_t r = first_row(); r < in.rows; r += row_step()) {
    const T* g = grad + (2 * r + 1) * in.dim;
    T mean = 0;
    for (int64_t k = in.ptr[r]; k < in.ptr[r + 1]; ++k) {
      const T by_weight = warp_dot(in.aux + k * in.dim, g, in.dim);
      if (lane == 0) by_logit[k] = by_weight;
      mean += weights[k] * by_weight;
    }
    __syncwarp();
    for (int64_t k = in.ptr[r] + lane; k < in.ptr[r + 1]; k += kWarp) by_logit[k] = weights[k] * (by_logit[k] - mean);
    __syncwarp();
    if (!grad_aux) continue;
    for (int64_t k = in.ptr[r]; k < in.ptr[r + 1]; ++k) {
      for (int64_t d = lane; d < in.dim; d += kWarp) {
        grad_aux[k * in.dim + d] = weights[k] * g[d] + by_logit[k] * in.attention[d];
      }
    }
  }
}

// A block per stretch of items; thread t has columns t, t + blockDim.x, ...
template <typename T>
__global__ void stretch_kernel(PoolRows<T> in, const T* by_logit, int64_t stretches, T* sums) {
  for (int64_t s = blockIdx.x; s < stretches; s += gridDim.x) {
    const int64_t last = (s + 1) * kPoolRows < in.rows ? (s + 1) * kPoolRows : in.rows;
    for (int64_t d = threadIdx.x; d < in.dim; d += kRowThreads) {
      T sum = 0;
      for (int64_t k = in.ptr[s * kPoolRows]; k < in.ptr[last]; ++k) sum += by_logit[k] * in.aux[k * in.dim + d];
      sums[s * in.dim + d] = sum;
    }
  }
}

// A warp per column: the stretches in a fixed order. The target's half has no gradient: it moves all logits alike.
template <typename T>
__global__ void columns_kernel(const T* sums, int64_t stretches, int64_t dim, T* grad_attention) {
  for (int64_t d = first_row(); d < dim; d += row_step()) {
    double sum = 0;
    for (int64_t s = lane_of(); s < stretches; s += kWarp) sum += static_cast<double>(sums[s * dim + d]);
    sum = warp_sum(sum);
    if (lane_of() == 0) {
      grad_attention[d] = 0;
      grad_attention[dim + d] = static_cast<T>(sum);
    }
  }
}

}  // namespace

template <typename T>
cudaError_t target_pool_forward(const PoolRows<T>& in, const T* target, T* out, T* weights, cudaStream_t stream) {
  MMFAST_LAUNCH(pool_kernel<T>, blocks_for(in.rows, kRowWarps), kRowThreads, 0, stream, in, target, out, weights);
  return cudaGetLastError();
}

template <typename T>
cudaError_t target_pool_backward(const PoolRows<T>& in, const T* grad, const T* weights, T* by_logit, T* sums,
                                 T* grad_aux, T* grad_attention, cudaStream_t stream) {
  const int64_t stretches = (in.rows + kPoolRows - 1) / kPoolRows;
  MMFAST_LAUNCH(logit_kernel<T>, blocks_for(in.rows, kRowWarps), kRowThreads, 0, stream, in, grad, weights, by_logit,
                grad_aux);
  MMFAST_LAUNCH(stretch_kernel<T>, blocks_for(stretches, 1), kRowThreads, 0, stream, in, by_logit, stretches, sums);
  MMFAST_LAUNCH(columns_kernel<T>, blocks_for(in.dim, kRowWarps), kRowThreads, 0, stream, sums, stretches, in.dim,
                grad_attention);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                   \
  template cudaError_t target_pool_forward(const PoolRows<T>&, const T*, T*, T*, cudaStream_t); \
  template cudaError_t target_pool_backward(const PoolRows<T>&, const T*, const T*, T*, T*, T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
