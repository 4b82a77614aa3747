// u . (p - n) of every triple, on the device.
#pragma once
#include "../losses.h"
#include "runtime.h"

namespace mmfast {

template <typename T>
cudaError_t triple_margins_forward(const Triples<T>& t, T* margins, cudaStream_t stream);

}  // namespace mmfast
