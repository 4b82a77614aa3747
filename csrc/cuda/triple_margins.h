// u . (p - n) of every triple, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

template <typename T>
cudaError_t triple_margins_forward(const T* users, const T* items, const int64_t* user, const int64_t* pos,
                                   const int64_t* neg, int64_t count, int64_t dim, T* margins, cudaStream_t stream);

}  // namespace mmfast
