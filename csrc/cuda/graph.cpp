// Checks of CSR operators on the device, and the workspace of their products.
#include "graph.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace mmfast {
namespace {

void check_on_host(const at::Tensor& ptr, const at::Tensor& cols, int64_t num_cols, const char* op) {
  const at::Tensor host = ptr.cpu();
  const int64_t* p = host.const_data_ptr<int64_t>();
  const int64_t last = p[host.numel() - 1];
  TORCH_CHECK(p[0] == 0 && last == cols.numel() && std::is_sorted(p, p + host.numel()), op, ": ptr runs from ", p[0],
              " to ", last, "; wanted from 0 up to the ", cols.numel(), " entries, never falling");
  check_ids(cols.cpu(), num_cols, op, "cols");
}

}  // namespace

DeviceGraphTensors::DeviceGraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols,
                                       const Optional& values, const Optional& row_scale, const Optional& col_scale,
                                       const at::Tensor& table, int64_t num_cols, cudaStream_t stream)
    : CsrTensors(op, ptr, cols, values, row_scale, col_scale, table, num_cols) {
  check_on_device(
      [&] {
        return device_check_csr(this->ptr(), num_rows(), cols_.const_data_ptr<int32_t>(), num_entries(), num_cols,
                                label_of(op, "cols"), stream);
      },
      [&] { check_on_host(ptr_, cols_, num_cols, op); });
}

ProductWorkspace::ProductWorkspace(const DeviceGraphTensors& graph, const int64_t* rows, int64_t count,
                                   const at::Tensor& table, cudaStream_t stream) {
  const int64_t sum_bytes = table.scalar_type() == at::kDouble ? sizeof(double) : sizeof(float);
  const int64_t bytes = product_workspace(graph.num_entries(), count, table.size(1), sum_bytes);
  if (bytes == 0) return;
  bytes_ = at::empty({bytes}, table.options().dtype(at::kByte));
  check(plan_product(graph.ptr(), rows, count, graph.num_entries(), bytes_.mutable_data_ptr(), stream));
}

}  // namespace mmfast
