// The last step of most losses' gradients, on every device: a slope times the gradient of its loss.
#include <ATen/core/Tensor.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "check.h"

namespace mmfast {
namespace {

at::Tensor slope_backward(const at::Tensor& grad, const at::Tensor& slope) {
  check_dtype(grad, slope.scalar_type(), "slope_backward", "grad");
  return at::mul(slope, grad.dim() == 1 && slope.dim() == 2 ? grad.unsqueeze(1) : grad);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CompositeExplicitAutograd, m) { m.impl("slope_backward", &slope_backward); }

}  // namespace mmfast
