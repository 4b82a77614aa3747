// TargetMR's attention pooling of ragged rows, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

constexpr int64_t kPoolRows = 64;  // rows whose part of the attention's gradient is summed first

template <typename T>
struct PoolRows {
  const T* aux;
  const int64_t* ptr;
  const T* attention;  // its half for the auxiliaries
  int64_t rows, dim;
};

template <typename T>
cudaError_t target_pool_forward(const PoolRows<T>& in, const T* target, T* out, T* weights, cudaStream_t stream);

// by_logit [values] and sums [ceil(rows / kPoolRows), dim] are scratch; grad_aux may be null; grad_attention is the
// whole of it, the target's half included.
template <typename T>
cudaError_t target_pool_backward(const PoolRows<T>& in, const T* grad, const T* weights, T* by_logit, T* sums,
                                 T* grad_aux, T* grad_attention, cudaStream_t stream);

}  // namespace mmfast
