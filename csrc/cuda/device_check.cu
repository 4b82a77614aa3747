// Checks of values on the device: a wild one is printed and the device stopped.
#include <cstdio>

#include "device_check.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

__device__ int64_t first_of_thread() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ int64_t threads_of_grid() { return int64_t{gridDim.x} * kThreads; }

template <typename Id>
__global__ void ids_kernel(const Id* ids, int64_t count, int64_t size, Label label) {
  for (int64_t i = first_of_thread(); i < count; i += threads_of_grid()) {
    const int64_t id = ids[i];
    if (id >= 0 && id < size) continue;
    printf("%s: %s holds id %lld; wanted 0 to %lld\n", label.op, label.name, static_cast<long long>(id),
           static_cast<long long>(size - 1));
    __trap();
  }
}

template <typename Id>
__global__ void rising_kernel(const Id* ids, int64_t count, Label label) {
  for (int64_t i = first_of_thread(); i + 1 < count; i += threads_of_grid()) {
    if (ids[i] < ids[i + 1]) continue;
    printf("%s: %s are not sorted and unique\n", label.op, label.name);
    __trap();
  }
}

__global__ void number_kernel(const int64_t* number, int64_t least, int64_t most, Label label) {
  if (threadIdx.x > 0 || (*number >= least && *number <= most)) return;
  printf("%s: %s is %lld; wanted %lld to %lld\n", label.op, label.name, static_cast<long long>(*number),
         static_cast<long long>(least), static_cast<long long>(most));
  __trap();
}

__global__ void csr_kernel(const int64_t* ptr, int64_t num_rows, const int32_t* cols, int64_t num_entries,
                           int64_t num_cols, Label label) {
  for (int64_t r = first_of_thread(); r <= num_rows; r += threads_of_grid()) {
    const int64_t here = ptr[r], before = r > 0 ? ptr[r - 1] : 0;
    if (here < before || (r == 0 && here != 0) || (r == num_rows && here != num_entries)) {
      printf("%s: ptr holds %lld after %lld; wanted from 0 up to the %lld entries, never falling\n", label.op,
             static_cast<long long>(here), static_cast<long long>(before), static_cast<long long>(num_entries));
      __trap();
    }
  }
  for (int64_t e = first_of_thread(); cols && e < num_entries; e += threads_of_grid()) {
    const int64_t col = cols[e];
    if (col < 0 || col >= num_cols) {
      printf("%s: cols holds id %lld; wanted 0 to %lld\n", label.op, static_cast<long long>(col),
             static_cast<long long>(num_cols - 1));
      __trap();
    }
  }
}

}  // namespace

template <typename Id>
cudaError_t device_check_ids(const Id* ids, int64_t count, int64_t size, const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(ids_kernel<Id>, blocks_for(count, 4 * kThreads), kThreads, 0, stream, ids, count, size, label);
  return cudaGetLastError();
}

template cudaError_t device_check_ids(const int32_t*, int64_t, int64_t, const Label&, cudaStream_t);
template cudaError_t device_check_ids(const int64_t*, int64_t, int64_t, const Label&, cudaStream_t);

template <typename Id>
cudaError_t device_check_rising(const Id* ids, int64_t count, const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(rising_kernel<Id>, blocks_for(count, 4 * kThreads), kThreads, 0, stream, ids, count, label);
  return cudaGetLastError();
}

template cudaError_t device_check_rising(const int32_t*, int64_t, const Label&, cudaStream_t);
template cudaError_t device_check_rising(const int64_t*, int64_t, const Label&, cudaStream_t);

cudaError_t device_check_number(const int64_t* number, int64_t least, int64_t most, const Label& label,
                                cudaStream_t stream) {
  MMFAST_LAUNCH(number_kernel, 1, kWarp, 0, stream, number, least, most, label);
  return cudaGetLastError();
}

cudaError_t device_check_csr(const int64_t* ptr, int64_t num_rows, const int32_t* cols, int64_t num_entries,
                             int64_t num_cols, const Label& label, cudaStream_t stream) {
  const int64_t work = std::max(num_entries, num_rows + 1);
  MMFAST_LAUNCH(csr_kernel, blocks_for(work, 4 * kThreads), kThreads, 0, stream, ptr, num_rows, cols, num_entries,
                num_cols, label);
  return cudaGetLastError();
}

}  // namespace mmfast
