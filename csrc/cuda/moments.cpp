// moments on CUDA: checks, allocation, dispatch by type.
#include "moments.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "bind.h"

namespace mmfast {
namespace {

void check_table(const at::Tensor& x, const char* op) {
  check_real(x, op, "x");
  TORCH_CHECK_VALUE(x.numel() >= 2, op, ": x holds ", x.numel(), " numbers; a variance needs at least two");
}

at::Tensor forward(const at::Tensor& x) {
  check_table(x, "moments");
  const DeviceScope scope(x);
  const at::Tensor dense = x.contiguous(), out = at::empty({2}, x.options());
  const at::Tensor parts = at::empty({2 * kMomentParts}, x.options().dtype(at::kDouble));
  const auto run = [&]<typename T>(T) {
    check(moments_forward(dense.const_data_ptr<T>(), dense.numel(), parts.mutable_data_ptr<double>(),
                          out.mutable_data_ptr<T>(), scope.stream()));
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& moments, const at::Tensor& x) {
  const char* op = "moments_backward";
  check_table(x, op);
  for (const auto& [name, t] : {std::pair{"grad", &grad}, {"moments", &moments}}) {
    check_dtype(*t, x.scalar_type(), op, name);
    check_dim(*t, 1, op, name);
    check_size(*t, 0, 2, op, name);
    check_device(*t, x, op, name);
  }
  const DeviceScope scope(x);
  const at::Tensor dense = x.contiguous(), slope = grad.contiguous(), out = at::empty(x.sizes(), x.options());
  const auto run = [&]<typename T>(T) {
    check(moments_backward(slope.const_data_ptr<T>(), moments.const_data_ptr<T>(), dense.const_data_ptr<T>(),
                           dense.numel(), out.mutable_data_ptr<T>(), scope.stream()));
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("moments", &forward);
  m.impl("moments_backward", &backward);
}

}  // namespace mmfast
