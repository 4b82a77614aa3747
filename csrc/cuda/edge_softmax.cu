// Softmax over the entries of every row, and its gradient.
#include "edge_softmax.h"
#include "team.h"

namespace mmfast {
namespace {

template <int W, typename T>
__global__ void forward_kernel(const int64_t* ptr, int64_t rows, int64_t heads, const T* logits, T* alpha) {
  const Team<W> team;
  for (int64_t r = team.first; r < rows; r += team.step) {
    const int64_t begin = ptr[r], count = ptr[r + 1] - begin;
    if (count == 0 || !team.takes(count)) continue;
    for (int64_t i = team.member; i < count * heads; i += W * kWarp)
      alpha[begin * heads + i] = logits[begin * heads + i];
    team.sync();
    for (int64_t h = 0; h < heads; ++h) team_softmax(team, alpha + begin * heads + h, count, heads);
  }
}

template <int W, typename T>
__global__ void backward_kernel(const int64_t* ptr, int64_t rows, int64_t heads, const T* grad, const T* alpha,
                                T* out) {
  const Team<W> team;
  for (int64_t r = team.first; r < rows; r += team.step) {
    const int64_t begin = ptr[r] * heads, end = ptr[r + 1] * heads;
    if (!team.takes(ptr[r + 1] - ptr[r])) continue;
    for (int64_t h = 0; h < heads; ++h) {
      T mean = 0;
      for (int64_t e = begin + h + team.member * heads; e < end; e += W * kWarp * heads) mean += alpha[e] * grad[e];
      mean = team.sum(mean);
      for (int64_t e = begin + h + team.member * heads; e < end; e += W * kWarp * heads) {
        out[e] = alpha[e] * (grad[e] - mean);
      }
    }
  }
}

}  // namespace

template <typename T>
cudaError_t edge_softmax_forward(const int64_t* ptr, int64_t rows, int64_t heads, const T* logits, T* alpha,
                                 cudaStream_t stream) {
  MMFAST_LAUNCH((forward_kernel<1, T>), blocks_for(rows, kTeamWarps), kTeamThreads, 0, stream, ptr, rows, heads, logits,
                alpha);
  MMFAST_LAUNCH((forward_kernel<kTeamWarps, T>), blocks_for(rows, kTeamThreads), kTeamThreads, 0, stream, ptr, rows,
                heads, logits, alpha);
  return cudaGetLastError();
}

template <typename T>
cudaError_t edge_softmax_backward(const int64_t* ptr, int64_t rows, int64_t heads, const T* grad, const T* alpha,
                                  T* out, cudaStream_t stream) {
  MMFAST_LAUNCH((backward_kernel<1, T>), blocks_for(rows, kTeamWarps), kTeamThreads, 0, stream, ptr, rows, heads, grad,
                alpha, out);
  MMFAST_LAUNCH((backward_kernel<kTeamWarps, T>), blocks_for(rows, kTeamThreads), kTeamThreads, 0, stream, ptr, rows,
                heads, grad, alpha, out);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                              \
  template cudaError_t edge_softmax_forward(const int64_t*, int64_t, int64_t, const T*, T*, cudaStream_t); \
  template cudaError_t edge_softmax_backward(const int64_t*, int64_t, int64_t, const T*, const T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
