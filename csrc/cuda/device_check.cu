// Checks of values on the device: a wild one is printed and the device stopped.
#include <cstdio>

#include "device_check.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

template <typename Id>
__global__ void ids_kernel(const Id* ids, int64_t count, int64_t size, Label label) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t id = ids[i];
    if (id >= 0 && id < size) continue;
    printf("%s: %s holds id %lld; wanted 0 to %lld\n", label.op, label.name, static_cast<long long>(id),
           static_cast<long long>(size - 1));
    __trap();
  }
}

__global__ void rising_kernel(const int64_t* rows, int64_t count, Label label) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i + 1 < count; i += int64_t{gridDim.x} * kThreads) {
    if (rows[i] < rows[i + 1]) continue;
    printf("%s: %s are not sorted and unique; take them from compact_ids\n", label.op, label.name);
    __trap();
  }
}

__global__ void ptr_kernel(const int64_t* ptr, int64_t num_rows, int64_t num_entries, Label label) {
  for (int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x; r <= num_rows; r += int64_t{gridDim.x} * kThreads) {
    const int64_t before = r > 0 ? ptr[r - 1] : 0;
    const bool ends = (r > 0 || ptr[r] == 0) && (r < num_rows || ptr[r] == num_entries);
    if (ends && before <= ptr[r]) continue;
    printf("%s: %s holds %lld after %lld; wanted from 0 up to the %lld entries, never falling\n", label.op, label.name,
           static_cast<long long>(ptr[r]), static_cast<long long>(before), static_cast<long long>(num_entries));
    __trap();
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

cudaError_t device_check_rising(const int64_t* rows, int64_t count, const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(rising_kernel, blocks_for(count, 4 * kThreads), kThreads, 0, stream, rows, count, label);
  return cudaGetLastError();
}

cudaError_t device_check_ptr(const int64_t* ptr, int64_t num_rows, int64_t num_entries, const Label& label,
                             cudaStream_t stream) {
  MMFAST_LAUNCH(ptr_kernel, blocks_for(num_rows + 1, 4 * kThreads), kThreads, 0, stream, ptr, num_rows, num_entries,
                label);
  return cudaGetLastError();
}

}  // namespace mmfast
