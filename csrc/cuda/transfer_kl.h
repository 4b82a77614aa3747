// PTMRec's in-batch KL, on the device.
#pragma once
#include "../losses.h"
#include "runtime.h"

namespace mmfast {

// users [size, dim], items [size, dim], content [modalities, size, dim]
template <typename T>
struct KlTables {
  const T *users, *items, *content;
  int64_t modalities, size, dim;
  T inverse_tau;
};

// loss [size], softmax [2, 1 + modalities, size] (highest scores, then sums), slope [size, dim] of the users.
template <typename T>
cudaError_t transfer_kl_forward(const KlTables<T>& in, T* loss, T* softmax, T* slope, cudaStream_t stream);

// grad [size]; out [modalities, size, dim] of the content.
template <typename T>
cudaError_t transfer_kl_backward(const KlTables<T>& in, const T* grad, const T* softmax, T* out, cudaStream_t stream);

}  // namespace mmfast
