// The mean of 1 - cos over paired rows, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// each [rows] is scratch for the rows' losses; slopes are those of the mean.
template <typename T>
cudaError_t cosine_loss_forward(const T* x, const T* y, int64_t rows, int64_t dim, double* each, T* loss, T* slope_x,
                                T* slope_y, cudaStream_t stream);

}  // namespace mmfast
