// Attention over the entries of every row, on the device.
#pragma once
#include "../attention.h"
#include "runtime.h"

namespace mmfast {

template <typename T>
cudaError_t edge_attention_forward(const Attention<T>& a, cudaStream_t stream);
template <typename T>
cudaError_t edge_attention_backward(const Attention<T>& a, cudaStream_t stream);

}  // namespace mmfast
