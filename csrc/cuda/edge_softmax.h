// Softmax over the entries of every row, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// alpha [E, heads] = softmax over each row's entries of logits [E, heads], for each head.
template <typename T>
cudaError_t edge_softmax_forward(const int64_t* ptr, int64_t rows, int64_t heads, const T* logits, T* alpha,
                                 cudaStream_t stream);

// out = alpha (grad - sum over the row of alpha grad).
template <typename T>
cudaError_t edge_softmax_backward(const int64_t* ptr, int64_t rows, int64_t heads, const T* grad, const T* alpha,
                                  T* out, cudaStream_t stream);

}  // namespace mmfast
