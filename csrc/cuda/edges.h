// Checks of the lists of edges that lie on the device.
#pragma once
#include "bind.h"

namespace mmfast {

// ptr [rows + 1] int64 from 0 to `entries`, never falling; returned contiguous.
at::Tensor checked_device_ptr(const at::Tensor& ptr, int64_t entries, const at::Tensor& like, const char* op,
                              const char* name, cudaStream_t stream);

// int32 [entries] inside [0, size); returned contiguous.
at::Tensor checked_device_list(const at::Tensor& ids, int64_t entries, int64_t size, const at::Tensor& like,
                               const char* op, const char* name, cudaStream_t stream);

}  // namespace mmfast
