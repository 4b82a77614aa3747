// ckd_loss on CUDA: checks, allocation, dispatch by type.
#include "ckd_loss.h"

#include <ATen/ops/empty.h>

#include <string_view>
#include <tuple>

#include "../loss_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> ckd_loss(
    const at::Tensor& margin, const at::Tensor& student, const at::Tensor& masked, const at::Tensor& teacher,
    const at::Tensor& universal_student, const at::Tensor& universal_teacher, double generic_weight, double temperature,
    double eps, std::string_view specific, std::string_view weights) {
  const CkdArguments arguments(margin, student, masked, teacher, universal_student, universal_teacher);
  const CkdOptions options = arguments.options(generic_weight, temperature, eps, specific, weights);
  const DeviceScope scope(student);
  const int64_t modalities = student.size(0), weighted = options.weights == CkdWeights::kCode ? student.numel() : 0;
  const auto doubles = student.options().dtype(at::kDouble);
  const at::Tensor weight = at::empty({modalities}, doubles), sums = at::empty({kCkdSums}, doubles);
  const at::Tensor each = at::empty({weighted}, student.options());
  const at::Tensor loss = at::empty({}, student.options()), mean = at::empty({modalities}, student.options());
  const at::Tensor slope = at::empty(student.sizes(), student.options());
  const at::Tensor universal_slope = at::empty(universal_student.sizes(), student.options());
  const auto run = [&]<typename T>(T) {
    check(ckd_loss_forward(arguments.view<T>(), options, weight.mutable_data_ptr<double>(), each.mutable_data_ptr<T>(),
                           sums.mutable_data_ptr<double>(), loss.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(),
                           slope.mutable_data_ptr<T>(), universal_slope.mutable_data_ptr<T>(), scope.stream()));
  };
  student.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, mean, slope, universal_slope};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("ckd_loss", &ckd_loss); }

}  // namespace mmfast
