// The gradient of a product's entry values: an inner product of two rows per entry.
#include "pack.h"
#include "product.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 8;                // lanes per entry
constexpr int kGroups = kWarp / kGroup;  // entries a warp serves at once
constexpr int64_t kSpan = 64;            // neighbouring entries of one warp, so that long rows hold nobody up

// The row of entry e, which is not before row `low`: strides that double, then halves.
__device__ int64_t row_of(const int64_t* ptr, int64_t num_rows, int64_t e, int64_t low) {
  int64_t step = 1;
  while (low + step < num_rows && __ldg(ptr + low + step) <= e) {
    low += step;
    step *= 2;
  }
  int64_t high = low + step < num_rows ? low + step : num_rows;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (__ldg(ptr + middle) <= e ? low : high) = middle;
  }
  return low;
}

template <int E, typename In>
__global__ void __launch_bounds__(kThreads)
    values_kernel(Graph<Sum<In>> graph, const In* grad, const In* x, int64_t dim, Sum<In>* out) {
  using T = Sum<In>;
  const int64_t group = threadIdx.x % kWarp / kGroup, member = threadIdx.x % kGroup;
  for (int64_t span = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; span * kSpan < graph.num_entries;
       span += int64_t{gridDim.x} * kWarps) {
    int64_t row = 0;
    for (int64_t at = span * kSpan; at < (span + 1) * kSpan; at += kGroups) {
      const int64_t e = at + group;
      T sum = 0, scale = 1;
      if (e < graph.num_entries) {
        row = row_of(graph.ptr, graph.num_rows, e, row);
        const int64_t col = __ldg(graph.cols + e);
        if (graph.row_scale) scale *= __ldg(graph.row_scale + row);
        if (graph.col_scale) scale *= __ldg(graph.col_scale + col);
        for (int64_t column = member * E; column < dim; column += kGroup * E) {
          Pack<In, E> a, b;
          a.load(grad + row * dim + column);
          b.load(x + col * dim + column);
#pragma unroll
          for (int i = 0; i < E; ++i) sum += a[i] * b[i];
        }
      }
#pragma unroll
      for (int mask = kGroup / 2; mask > 0; mask /= 2) sum += warp_xor(sum, mask);
      if (member == 0 && e < graph.num_entries) out[e] = scale * sum;
    }
  }
}

}  // namespace

template <typename In>
cudaError_t values_backward(const Graph<Sum<In>>& graph, const In* grad, const In* x, int64_t dim, Sum<In>* grad_values,
                            cudaStream_t stream) {
  constexpr int kFull = 16 / sizeof(In);
  if (graph.num_entries == 0) return cudaSuccess;
  const int64_t blocks = blocks_for(graph.num_entries, kSpan * kWarps);
  if (dim % kFull == 0 && aligned16(grad) && aligned16(x)) {
    MMFAST_LAUNCH((values_kernel<kFull, In>), blocks, kThreads, 0, stream, graph, grad, x, dim, grad_values);
  } else {
    MMFAST_LAUNCH((values_kernel<1, In>), blocks, kThreads, 0, stream, graph, grad, x, dim, grad_values);
  }
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(In) \
  template cudaError_t values_backward(const Graph<Sum<In>>&, const In*, const In*, int64_t, Sum<In>*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)
MMFAST_INSTANTIATE(Half)
MMFAST_INSTANTIATE(BFloat16)

}  // namespace mmfast
