// The Frobenius norm of the gathered rows table[index] without gathering them, and its gradient.
#include "gathered_norm.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__global__ void count_kernel(const int64_t* index, int64_t batch, int32_t* occurrences) {
  for (int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x; b < batch; b += int64_t{gridDim.x} * kThreads) {
    atomicAdd(occurrences + index[b], 1);
  }
}

// The sum over the block, in thread 0; each thread's part joins in a fixed order.
__device__ double block_sum(double x) {
  __shared__ double parts[kWarps];
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < kWarps; ++w) total += parts[w];
  }
  return total;
}

// A warp per row; block b adds rows b * kWarps + warp, b * kWarps + warp + gridDim.x * kWarps, ...
template <typename T>
__global__ void squares_kernel(const T* table, const int32_t* occurrences, int64_t rows, int64_t dim, T* counts,
                               double* partials) {
  const int lane = threadIdx.x % kWarp;
  double total = 0;
  for (int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; r < rows; r += int64_t{gridDim.x} * kWarps) {
    const int32_t count = occurrences[r];
    if (lane == 0) counts[r] = static_cast<T>(count);
    if (count == 0) continue;
    T square = 0;
    for (int64_t d = lane; d < dim; d += kWarp) square += table[r * dim + d] * table[r * dim + d];
    total += static_cast<double>(count) * static_cast<double>(square);
  }
  total = block_sum(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

template <typename T>
__global__ void root_kernel(const double* partials, int64_t count, T* norm) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) total += partials[i];
  total = block_sum(total);
  if (threadIdx.x == 0) *norm = static_cast<T>(sqrt(total));
}

template <typename T>
__global__ void backward_kernel(const T* grad, const T* norm, const T* counts, const T* table, int64_t rows,
                                int64_t dim, T* out) {
  const T length = *norm;
  const T scale = length == 0 ? T(0) : *grad / length;  // the norm has a corner at zero
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * dim; i += int64_t{gridDim.x} * kThreads) {
    const T count = counts[i / dim];
    out[i] = count == 0 ? T(0) : scale * count * table[i];
  }
}

}  // namespace

template <typename T>
cudaError_t gathered_norm_forward(const T* table, const int64_t* index, int64_t rows, int64_t dim, int64_t batch,
                                  int32_t* occurrences, double* partials, T* counts, T* norm, cudaStream_t stream) {
  const int64_t blocks = std::min(blocks_for(rows, kWarps), kNormPartials);
  MMFAST_LAUNCH(count_kernel, blocks_for(batch, kThreads), kThreads, 0, stream, index, batch, occurrences);
  MMFAST_LAUNCH(squares_kernel<T>, blocks, kThreads, 0, stream, table, occurrences, rows, dim, counts, partials);
  MMFAST_LAUNCH(root_kernel<T>, 1, kThreads, 0, stream, partials, blocks, norm);
  return cudaGetLastError();
}

template <typename T>
cudaError_t gathered_norm_backward(const T* grad, const T* norm, const T* counts, const T* table, int64_t rows,
                                   int64_t dim, T* out, cudaStream_t stream) {
  MMFAST_LAUNCH(backward_kernel<T>, blocks_for(rows * dim, kThreads), kThreads, 0, stream, grad, norm, counts, table,
                rows, dim, out);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                                        \
  template cudaError_t gathered_norm_forward(const T*, const int64_t*, int64_t, int64_t, int64_t, int32_t*, double*, \
                                             T*, T*, cudaStream_t);                                                  \
  template cudaError_t gathered_norm_backward(const T*, const T*, const T*, const T*, int64_t, int64_t, T*,          \
                                              cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
