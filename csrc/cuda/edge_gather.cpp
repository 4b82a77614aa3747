// edge_gather and edge_sum on CUDA: checks, allocation, dispatch by type.
#include "edge_gather.h"

#include <ATen/ops/empty.h>

#include "edges.h"

namespace mmfast {
namespace {

template <typename T>
void gather(const at::Tensor& cols, const at::Tensor& table, at::Tensor& out, cudaStream_t stream) {
  check(edge_gather_rows(cols.const_data_ptr<int32_t>(), cols.numel(), table.size(1), table.const_data_ptr<T>(),
                         out.mutable_data_ptr<T>(), stream));
}

template <typename T>
void sum(const at::Tensor& ptr, const at::Tensor& edges, const at::Tensor& values, at::Tensor& out,
         cudaStream_t stream) {
  check(edge_sum_rows(ptr.const_data_ptr<int64_t>(), edges.const_data_ptr<int32_t>(), out.size(0), out.size(1),
                      values.const_data_ptr<T>(), out.mutable_data_ptr<T>(), stream));
}

at::Tensor edge_gather(const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& edges_t,
                       const at::Tensor& table) {
  const char* op = "edge_gather";
  check_dim(table, 2, op, "table");
  check_real(table, op, "table");
  check_size(table, 0, ptr_t.numel() - 1, op, "table");
  const DeviceScope scope(table);
  const at::Tensor in = table.contiguous();
  const at::Tensor col = checked_device_list(cols, cols.numel(), table.size(0), table, op, "cols", scope.stream());
  at::Tensor out = at::empty({cols.numel(), table.size(1)}, table.options());
  if (table.scalar_type() == at::kFloat) {
    gather<float>(col, in, out, scope.stream());
  } else {
    gather<double>(col, in, out, scope.stream());
  }
  return out;
}

at::Tensor edge_sum(const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& edges_t,
                    const at::Tensor& values) {
  const char* op = "edge_sum";
  check_dim(values, 2, op, "values");
  check_real(values, op, "values");
  const DeviceScope scope(values);
  const int64_t entries = values.size(0);
  const at::Tensor ptr = checked_device_ptr(ptr_t, entries, values, op, "ptr_t", scope.stream());
  const at::Tensor edge = checked_device_list(edges_t, entries, entries, values, op, "edges_t", scope.stream());
  const at::Tensor in = values.contiguous();
  at::Tensor out = at::empty({ptr.numel() - 1, values.size(1)}, values.options());
  if (values.scalar_type() == at::kFloat) {
    sum<float>(ptr, edge, in, out, scope.stream());
  } else {
    sum<double>(ptr, edge, in, out, scope.stream());
  }
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("edge_gather", &edge_gather);
  m.impl("edge_sum", &edge_sum);
}

}  // namespace mmfast
