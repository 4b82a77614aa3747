// What edge_attention takes and gives, as the kernels of every device read it.
#pragma once
#include <cstdint>

namespace mmfast {

// The entries by row and by column (module.cpp), the tables and the results; q [R, dim], k [C or 2C, dim], v [C or 2C,
// dim_v].
template <typename T>
struct Attention {
  const int64_t *ptr, *ptr_t;
  const int32_t *cols, *rows_t, *edges_t;
  const bool* choice;  // null: no entry chooses the second half of k and v
  int64_t num_rows, num_cols, num_entries;
  const T *q, *k, *v;
  int64_t dim, dim_v;
  T scale;
  T *out, *alpha;                            // results of the forward pass
  const T *weights, *grad_out, *grad_alpha;  // backward: alpha, and the gradients that there are
  T *slope, *grad_q, *grad_k, *grad_v;       // slope [E]: the gradient of the dot products
};

}  // namespace mmfast
