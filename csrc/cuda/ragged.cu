// The check of ragged rows' starts on the device.
#include <cstdio>

#include "ragged.h"
#include "rows.h"

namespace mmfast {
namespace {

__global__ void ptr_kernel(const int64_t* ptr, int64_t rows, int64_t count, Label label) {
  for (int64_t r = first_item(); r <= rows; r += item_step()) {
    const int64_t here = ptr[r], before = r > 0 ? ptr[r - 1] : 0;
    if (here >= before && (r > 0 || here == 0) && (r < rows || here == count)) continue;
    printf("%s: %s holds %lld after %lld; wanted from 0 up to the %lld values, never falling\n", label.op, label.name,
           static_cast<long long>(here), static_cast<long long>(before), static_cast<long long>(count));
    __trap();
  }
}

}  // namespace

cudaError_t device_check_ptr(const int64_t* ptr, int64_t rows, int64_t count, const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(ptr_kernel, blocks_for(rows + 1, 4 * kRowThreads), kRowThreads, 0, stream, ptr, rows, count, label);
  return cudaGetLastError();
}

}  // namespace mmfast
