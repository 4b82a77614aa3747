// CKD's distillation losses, on the device.
#pragma once
#include "../losses.h"
#include "runtime.h"

namespace mmfast {

// Partial sums that ckd_loss_forward needs room for.
constexpr int64_t kCkdSums = 256;

// weight [modalities] in double and each [modalities, count] (the code's weights only) are scratch, sums [kCkdSums]
// too.
template <typename T>
cudaError_t ckd_loss_forward(const CkdMargins<T>& in, const CkdOptions& options, double* weight, T* each, double* sums,
                             T* loss, T* weights, T* slope, T* universal_slope, cudaStream_t stream);

}  // namespace mmfast
