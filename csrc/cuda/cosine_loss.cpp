// cosine_loss on CUDA: checks, allocation, dispatch by type.
#include "cosine_loss.h"

#include <ATen/ops/empty.h>

#include <tuple>

#include "bind.h"

namespace mmfast {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> cosine_loss(const at::Tensor& x, const at::Tensor& y) {
  const char* op = "cosine_loss";
  check_dim(x, 2, op, "x");
  check_real(x, op, "x");
  check_dim(y, 2, op, "y");
  check_dtype(y, x.scalar_type(), op, "y");
  check_size(y, 0, x.size(0), op, "y");
  check_size(y, 1, x.size(1), op, "y");
  check_device(y, x, op, "y");
  TORCH_CHECK_VALUE(x.size(0) > 0, op, ": the batch is empty; wanted at least one row");
  const DeviceScope scope(x);
  const at::Tensor left = x.contiguous(), right = y.contiguous();
  const at::Tensor each = at::empty({x.size(0)}, x.options().dtype(at::kDouble)), loss = at::empty({}, x.options());
  const at::Tensor slope_x = at::empty(x.sizes(), x.options()), slope_y = at::empty(y.sizes(), y.options());
  const auto run = [&]<typename T>(T) {
    check(cosine_loss_forward(left.const_data_ptr<T>(), right.const_data_ptr<T>(), x.size(0), x.size(1),
                              each.mutable_data_ptr<double>(), loss.mutable_data_ptr<T>(),
                              slope_x.mutable_data_ptr<T>(), slope_y.mutable_data_ptr<T>(), scope.stream()));
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, slope_x, slope_y};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("cosine_loss", &cosine_loss); }

}  // namespace mmfast
