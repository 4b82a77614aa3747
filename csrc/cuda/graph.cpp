// Checks of CSR operators on the device, and the workspace of their products.
#include "graph.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace mmfast {
namespace {

at::Tensor optional_vector(const std::optional<at::Tensor>& t, int64_t size, const at::Tensor& table, const char* op,
                           const char* name) {
  if (!t) return {};
  check_dim(*t, 1, op, name);
  check_size(*t, 0, size, op, name);
  check_dtype(*t, table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat, op, name);
  check_device(*t, table, op, name);
  return t->contiguous();
}

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
                                       const std::optional<at::Tensor>& values,
                                       const std::optional<at::Tensor>& row_scale,
                                       const std::optional<at::Tensor>& col_scale, const at::Tensor& table,
                                       int64_t num_cols, cudaStream_t stream) {
  check_dim(ptr, 1, op, "ptr");
  check_dtype(ptr, at::kLong, op, "ptr");
  TORCH_CHECK(ptr.numel() > 0, op, ": ptr is empty; wanted one more than the rows");
  check_dim(cols, 1, op, "cols");
  check_dtype(cols, at::kInt, op, "cols");
  check_device(ptr, table, op, "ptr");
  check_device(cols, table, op, "cols");
  ptr_ = ptr.contiguous();
  cols_ = cols.contiguous();
  values_ = optional_vector(values, cols.numel(), table, op, "values");
  row_scale_ = optional_vector(row_scale, num_rows(), table, op, "row_scale");
  col_scale_ = optional_vector(col_scale, num_cols, table, op, "col_scale");
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
