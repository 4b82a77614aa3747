// Starts of ragged rows that lie on the device.
#pragma once
#include "device_check.h"

namespace mmfast {

// ptr [rows + 1] runs from 0 to `count` and never falls.
cudaError_t device_check_ptr(const int64_t* ptr, int64_t rows, int64_t count, const Label& label, cudaStream_t stream);

}  // namespace mmfast
