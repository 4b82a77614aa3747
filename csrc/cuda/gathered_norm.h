// The Frobenius norm of gathered rows, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// Blocks that sum at most, and so the number of their sums.
constexpr int64_t kNormPartials = 1024;

// counts[r] = how often r is in index; norm = sqrt(sum_r counts[r] |table_r|^2). `occurrences` [rows] holds zeros, and
// `partials` is room for kNormPartials sums.
template <typename T>
cudaError_t gathered_norm_forward(const T* table, const int64_t* index, int64_t rows, int64_t dim, int64_t batch,
                                  int32_t* occurrences, double* partials, T* counts, T* norm, cudaStream_t stream);

// out_r = grad / norm * counts[r] * table_r, zero where the norm is.
template <typename T>
cudaError_t gathered_norm_backward(const T* grad, const T* norm, const T* counts, const T* table, int64_t rows,
                                   int64_t dim, T* out, cudaStream_t stream);

}  // namespace mmfast
