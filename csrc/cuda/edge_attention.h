// Attention over the entries of every row, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// The entries by row and by column (csrc/module.cpp), the tables and the results; q [R, dim], k [C or 2C, dim], v [C or
// 2C, dim_v]. choice null: no entry takes the second half of k and v.
template <typename T>
struct DeviceAttention {
  const int64_t *ptr, *ptr_t;
  const int32_t *cols, *rows_t, *edges_t;
  const bool* choice;
  int64_t num_rows, num_cols;
  const T *q, *k, *v;
  int64_t dim, dim_v;
  T scale;
  T *out, *alpha;                            // results of the forward pass
  const T *weights, *grad_out, *grad_alpha;  // backward: alpha, and the gradients that there are
  T *slope, *grad_q, *grad_k, *grad_v;       // slope [E]: the gradient of the dot products
};

template <typename T>
cudaError_t edge_attention_forward(const DeviceAttention<T>& a, cudaStream_t stream);
template <typename T>
cudaError_t edge_attention_backward(const DeviceAttention<T>& a, cudaStream_t stream);

}  // namespace mmfast
