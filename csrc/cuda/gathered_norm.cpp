// gathered_norm on CUDA: checks, allocation, dispatch by type.
#include "gathered_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "bind.h"

namespace mmfast {
namespace {

template <typename T>
void forward(const at::Tensor& table, const at::Tensor& index, at::Tensor& norm, at::Tensor& counts,
             cudaStream_t stream) {
  at::Tensor occurrences = at::zeros({table.size(0)}, index.options().dtype(at::kInt));
  at::Tensor partials = at::empty({kNormPartials}, index.options().dtype(at::kDouble));
  check(gathered_norm_forward(table.const_data_ptr<T>(), index.const_data_ptr<int64_t>(), table.size(0), table.size(1),
                              index.numel(), occurrences.mutable_data_ptr<int32_t>(),
                              partials.mutable_data_ptr<double>(), counts.mutable_data_ptr<T>(),
                              norm.mutable_data_ptr<T>(), stream));
}

std::tuple<at::Tensor, at::Tensor> gathered_norm(const at::Tensor& table, const at::Tensor& index) {
  const char* op = "gathered_norm";
  check_dim(table, 2, op, "table");
  check_real(table, op, "table");
  check_dim(index, 1, op, "index");
  check_dtype(index, at::kLong, op, "index");
  check_device(index, table, op, "index");
  const DeviceScope scope(table);
  const at::Tensor rows = index.contiguous(), x = table.contiguous();
  check_device_ids(rows, table.size(0), op, "index", scope.stream());
  at::Tensor norm = at::empty({}, table.options()), counts = at::empty({table.size(0)}, table.options());
  if (table.scalar_type() == at::kFloat) {
    forward<float>(x, rows, norm, counts, scope.stream());
  } else {
    forward<double>(x, rows, norm, counts, scope.stream());
  }
  return {norm, counts};
}

template <typename T>
void backward(const at::Tensor& grad, const at::Tensor& norm, const at::Tensor& counts, const at::Tensor& table,
              at::Tensor& out, cudaStream_t stream) {
  check(gathered_norm_backward(grad.const_data_ptr<T>(), norm.const_data_ptr<T>(), counts.const_data_ptr<T>(),
                               table.const_data_ptr<T>(), table.size(0), table.size(1), out.mutable_data_ptr<T>(),
                               stream));
}

at::Tensor gathered_norm_backward_op(const at::Tensor& grad, const at::Tensor& norm, const at::Tensor& counts,
                                     const at::Tensor& table) {
  const char* op = "gathered_norm_backward";
  check_dim(counts, 1, op, "counts");
  check_size(counts, 0, table.size(0), op, "counts");
  check_real(table, op, "table");
  check_device(grad, table, op, "grad");
  check_device(norm, table, op, "norm");
  check_device(counts, table, op, "counts");
  const DeviceScope scope(table);
  const at::Tensor x = table.contiguous(), count = counts.contiguous();
  at::Tensor out = at::empty(table.sizes(), table.options());
  if (table.scalar_type() == at::kFloat) {
    backward<float>(grad, norm, count, x, out, scope.stream());
  } else {
    backward<double>(grad, norm, count, x, out, scope.stream());
  }
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("gathered_norm", &gathered_norm);
  m.impl("gathered_norm_backward", &gathered_norm_backward_op);
}

}  // namespace mmfast
