// Checks of values that lie on the device; bind.h tells what a failure does.
#pragma once
#include "runtime.h"

namespace mmfast {

// An op and an argument by name, copied to the device for its message.
struct Label {
  char op[48];
  char name[32];
};

// Every id lies in [0, size).
template <typename Id>
cudaError_t device_check_ids(const Id* ids, int64_t count, int64_t size, const Label& label, cudaStream_t stream);

// Every id is above the one before.
template <typename Id>
cudaError_t device_check_rising(const Id* ids, int64_t count, const Label& label, cudaStream_t stream);

// The number lies in [least, most].
cudaError_t device_check_number(const int64_t* number, int64_t least, int64_t most, const Label& label,
                                cudaStream_t stream);

// ptr [num_rows + 1] runs from 0 to num_entries and never falls, and every column lies in [0, num_cols); cols null: ptr
// alone.
cudaError_t device_check_csr(const int64_t* ptr, int64_t num_rows, const int32_t* cols, int64_t num_entries,
                             int64_t num_cols, const Label& label, cudaStream_t stream);

}  // namespace mmfast
