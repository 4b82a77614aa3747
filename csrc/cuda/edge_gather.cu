// Gathering and summing a few numbers per entry.
#include "edge_gather.h"
#include "team.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void gather_kernel(const int32_t* cols, int64_t entries, int64_t width, const T* table, T* out) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < entries * width;
       i += int64_t{gridDim.x} * kThreads) {
    out[i] = table[cols[i / width] * width + i % width];
  }
}

template <int W, typename T>
__global__ void sum_kernel(const int64_t* ptr, const int32_t* edges, int64_t rows, int64_t width, const T* values,
                           T* out) {
  const Team<W> team;
  for (int64_t r = team.first; r < rows; r += team.step) {
    const int64_t begin = ptr[r], end = ptr[r + 1];
    if (!team.takes(end - begin)) continue;
    for (int64_t h = 0; h < width; ++h) {
      T sum = 0;
      for (int64_t t = begin + team.member; t < end; t += W * kWarp) sum += values[edges[t] * width + h];
      sum = team.sum(sum);
      if (team.member == 0) out[r * width + h] = sum;
    }
  }
}

}  // namespace

template <typename T>
cudaError_t edge_gather_rows(const int32_t* cols, int64_t entries, int64_t width, const T* table, T* out,
                             cudaStream_t stream) {
  MMFAST_LAUNCH(gather_kernel<T>, blocks_for(entries * width, kThreads), kThreads, 0, stream, cols, entries, width,
                table, out);
  return cudaGetLastError();
}

template <typename T>
cudaError_t edge_sum_rows(const int64_t* ptr, const int32_t* edges, int64_t rows, int64_t width, const T* values,
                          T* out, cudaStream_t stream) {
  MMFAST_LAUNCH((sum_kernel<1, T>), blocks_for(rows, kTeamWarps), kTeamThreads, 0, stream, ptr, edges, rows, width,
                values, out);
  MMFAST_LAUNCH((sum_kernel<kTeamWarps, T>), blocks_for(rows, kTeamThreads), kTeamThreads, 0, stream, ptr, edges, rows,
                width, values, out);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                          \
  template cudaError_t edge_gather_rows(const int32_t*, int64_t, int64_t, const T*, T*, cudaStream_t); \
  template cudaError_t edge_sum_rows(const int64_t*, const int32_t*, int64_t, int64_t, const T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
