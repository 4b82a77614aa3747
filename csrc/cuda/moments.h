// Mean and unbiased variance of a whole table, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// Pairs (mean, sum of squared distances from it) that moments_forward needs room for.
constexpr int64_t kMomentParts = 512;

// out [2] = mean and variance; parts [2 * kMomentParts] is scratch.
template <typename T>
cudaError_t moments_forward(const T* x, int64_t count, double* parts, T* out, cudaStream_t stream);

// out = grad[0] / count + 2 grad[1] (x - moments[0]) / (count - 1)
template <typename T>
cudaError_t moments_backward(const T* grad, const T* moments, const T* x, int64_t count, T* out, cudaStream_t stream);

}  // namespace mmfast
