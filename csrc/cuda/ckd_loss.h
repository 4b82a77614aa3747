// CKD's distillation losses, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

enum class CkdSpecific { kHinge, kCrossEntropy, kSquare };
enum class CkdWeights { kPaper, kCode, kUniform, kOnes };

template <typename T>
struct CkdMargins {
  const T *margin, *student, *masked, *teacher, *universal_student, *universal_teacher;
  int64_t modalities, count, universal;
};

struct CkdOptions {
  double generic_weight, inverse_tau, eps;
  CkdSpecific specific;
  CkdWeights weights;
};

// Partial sums that ckd_loss_forward needs room for.
constexpr int64_t kCkdSums = 256;

// weight [modalities] in double and each [modalities, count] (the code's weights only) are scratch, sums [kCkdSums]
// too.
template <typename T>
cudaError_t ckd_loss_forward(const CkdMargins<T>& in, const CkdOptions& options, double* weight, T* each, double* sums,
                             T* loss, T* weights, T* slope, T* universal_slope, cudaStream_t stream);

}  // namespace mmfast
