// One sparse product over a table on the device, the step that every propagation is made of.
#pragma once
#include "../csr.h"
#include "runtime.h"

namespace mmfast {

// out = alpha * (base + A in) + extra, row by row. How a row is summed depends on its entries and `dim` alone, so the
// bits depend neither on the other rows nor on the device's timing.
template <typename In, typename Out = In>
struct DeviceProduct {
  Graph<Sum<In>> graph;
  const In* in;                   // a row per column of A, or per slot where `sparse_in`
  const In* base = nullptr;       // a row per row of A, or per slot where `slot`; null: zero
  const In* extra = nullptr;      // a row per slot; null: zero
  const int32_t* slot = nullptr;  // node -> row of a compact table, -1 where that row is zero
  const int64_t* rows = nullptr;  // rows of A to compute; null: all of them
  Out* out = nullptr;
  int64_t count = 0;  // of rows to compute
  int64_t dim = 0;
  Sum<In> alpha = 1;
  bool sparse_in = false;
};

// Bytes of the workspace of products over `count` rows of a graph: room for the pieces of long rows. 0: none is long.
int64_t product_workspace(int64_t num_entries, int64_t count, int64_t dim, int64_t sum_bytes);

// Lists the pieces of long rows in the workspace; serves every product over the same rows of the same graph.
cudaError_t plan_product(const int64_t* ptr, const int64_t* rows, int64_t count, int64_t num_entries, void* workspace,
                         cudaStream_t stream);

template <typename In, typename Out>
cudaError_t run_product(const DeviceProduct<In, Out>& product, void* workspace, cudaStream_t stream);

// slot[rows[i]] = i; the other slots are the caller's.
cudaError_t fill_slots(const int64_t* rows, int64_t count, int32_t* slot, cudaStream_t stream);

// grad_values[e] = row_scale[r] * col_scale[c] * <grad[r], x[c]> for every entry e = (r, c); `graph.values` is not
// read.
template <typename In>
cudaError_t values_backward(const Graph<Sum<In>>& graph, const In* grad, const In* x, int64_t dim, Sum<In>* grad_values,
                            cudaStream_t stream);

}  // namespace mmfast
