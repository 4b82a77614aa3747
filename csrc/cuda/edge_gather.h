// Numbers of columns at their entries, and sums over the entries of columns, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// out [E, width] = table[cols].
template <typename T>
cudaError_t edge_gather_rows(const int32_t* cols, int64_t entries, int64_t width, const T* table, T* out,
                             cudaStream_t stream);

// out [C, width]: out_c = the sum of values[edges[t]] over ptr[c] <= t < ptr[c + 1].
template <typename T>
cudaError_t edge_sum_rows(const int64_t* ptr, const int32_t* edges, int64_t rows, int64_t width, const T* values,
                          T* out, cudaStream_t stream);

}  // namespace mmfast
