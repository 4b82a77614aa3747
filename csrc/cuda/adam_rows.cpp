// Binds adam_rows_.
#include "adam_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <limits>

#include "../adam_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "adam_rows_";

void adam_rows(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, const at::Tensor& rows,
               const at::Tensor& grad, double lr, double beta1, double beta2, double eps, double weight_decay,
               const at::Tensor& step) {
  const DeviceScope scope(param);
  check_adam(param, exp_avg, exp_avg_sq, kOp);
  check_rows_grad(rows, grad, param, kOp);
  check_step(step, param, kOp);
  TORCH_CHECK(rows.numel() <= std::numeric_limits<int32_t>::max(), kOp, ": rows has ", rows.numel(),
              " ids; wanted fewer than 2^31");
  check_device_number(step, 1, kMostSteps, kOp, "step", scope.stream());
  const at::Tensor nodes = checked_device_rows(rows, param.size(0), kOp, scope.stream(), "coalesce the gradient");
  const at::Tensor dense = grad.contiguous();
  const at::Tensor place = at::full({param.size(0)}, -1, rows.options().dtype(at::kInt));
  const auto run = [&]<typename T>(T) {
    const at::Tensor common = at::empty({int64_t{sizeof(AdamStep<T>)}}, rows.options().dtype(at::kByte));
    auto* shared = reinterpret_cast<AdamStep<T>*>(common.mutable_data_ptr<uint8_t>());
    check(adam_rows_prepare(nodes.const_data_ptr<int64_t>(), nodes.numel(), {lr, beta1, beta2, eps},
                            step.const_data_ptr<int64_t>(), place.mutable_data_ptr<int32_t>(), shared, scope.stream()));
    const AdamRows<T> s{param.mutable_data_ptr<T>(),
                        exp_avg.mutable_data_ptr<T>(),
                        exp_avg_sq.mutable_data_ptr<T>(),
                        place.const_data_ptr<int32_t>(),
                        dense.const_data_ptr<T>(),
                        param.size(0),
                        param.size(1),
                        shared,
                        static_cast<T>(weight_decay)};
    check(adam_rows_step(s, scope.stream()));
  };
  param.scalar_type() == at::kFloat ? run(float{}) : run(double{});
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("adam_rows_", &adam_rows); }

}  // namespace mmfast
