// template_op on CUDA: checks, allocation, dispatch by type.
#include "template_op.h"

#include <ATen/ops/empty.h>

#include "bind.h"

namespace mmfast {
namespace {

at::Tensor template_op(const at::Tensor& x) {
  check_dim(x, 2, "template_op", "x");
  check_real(x, "template_op", "x");
  const DeviceScope scope(x);
  const at::Tensor in = x.contiguous(), out = at::empty(x.sizes(), x.options());
  const auto run = [&]<typename T>(T) {
    check(template_op_forward(in.const_data_ptr<T>(), in.numel(), out.mutable_data_ptr<T>(), scope.stream()));
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("template_op", &template_op); }

}  // namespace mmfast
