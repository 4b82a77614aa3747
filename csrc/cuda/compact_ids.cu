// Renumbers ids: a flag per possible id, and after a running sum of the flags the place of every id.
#include "compact_ids.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

__global__ void mark_kernel(const int64_t* ids, int64_t count, uint8_t* present) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) present[ids[i]] = 1;
}

__global__ void rows_kernel(const uint8_t* present, const int64_t* place, int64_t num_rows, int64_t* rows) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t r = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; r < num_rows; r += step) {
    if (present[r]) rows[place[r] - 1] = r;
  }
}

__global__ void index_kernel(const int64_t* ids, int64_t count, const int64_t* place, int64_t* index) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) index[i] = place[ids[i]] - 1;
}

}  // namespace

cudaError_t compact_ids_mark(const int64_t* ids, int64_t count, uint8_t* present, cudaStream_t stream) {
  MMFAST_LAUNCH(mark_kernel, blocks_for(count, kThreads), kThreads, 0, stream, ids, count, present);
  return cudaGetLastError();
}

cudaError_t compact_ids_write(const int64_t* ids, int64_t count, const uint8_t* present, const int64_t* place,
                              int64_t num_rows, int64_t* rows, int64_t* index, cudaStream_t stream) {
  MMFAST_LAUNCH(rows_kernel, blocks_for(num_rows, kThreads), kThreads, 0, stream, present, place, num_rows, rows);
  MMFAST_LAUNCH(index_kernel, blocks_for(count, kThreads), kThreads, 0, stream, ids, count, place, index);
  return cudaGetLastError();
}

}  // namespace mmfast
