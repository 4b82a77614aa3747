// moments on CUDA: checks, allocation, dispatch by type.
#include "moments.h"

#include <ATen/ops/empty.h>

#include "../loss_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

at::Tensor forward(const at::Tensor& x) {
  check_moments(x, "moments");
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
  check_moments_backward(grad, moments, x, "moments_backward");
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
