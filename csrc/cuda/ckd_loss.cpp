// ckd_loss on CUDA: checks, allocation, dispatch by type.
#include "ckd_loss.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <tuple>

#include "bind.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "ckd_loss";

// The place of `name` among the names of an enum's values.
template <typename Kind>
Kind parse(std::string_view name, const char* argument, std::initializer_list<std::string_view> names) {
  const auto found = std::find(names.begin(), names.end(), name);
  TORCH_CHECK_VALUE(found != names.end(), kOp, ": ", argument, " is '", name, "'; wanted ",
                    c10::Join(", ", at::ArrayRef<std::string_view>(names)));
  return static_cast<Kind>(found - names.begin());
}

// A stack of margins [M, size] like the student's.
void check_stack(const at::Tensor& t, const at::Tensor& like, int64_t size, const char* name) {
  check_dim(t, 2, kOp, name);
  check_dtype(t, like.scalar_type(), kOp, name);
  check_size(t, 0, like.size(0), kOp, name);
  check_size(t, 1, size, kOp, name);
  check_device(t, like, kOp, name);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> ckd_loss(
    const at::Tensor& margin, const at::Tensor& student, const at::Tensor& masked, const at::Tensor& teacher,
    const at::Tensor& universal_student, const at::Tensor& universal_teacher, double generic_weight, double temperature,
    double eps, std::string_view specific, std::string_view weights) {
  check_dim(student, 2, kOp, "student");
  check_real(student, kOp, "student");
  check_dim(universal_student, 2, kOp, "universal_student");
  check_dim(margin, 1, kOp, "margin");
  check_dtype(margin, student.scalar_type(), kOp, "margin");
  check_device(margin, student, kOp, "margin");
  const int64_t modalities = student.size(0), count = student.size(1), universal = universal_student.size(1);
  check_size(margin, 0, count, kOp, "margin");
  check_stack(masked, student, count, "masked");
  check_stack(teacher, student, count, "teacher");
  check_stack(universal_student, student, universal, "universal_student");
  check_stack(universal_teacher, student, universal, "universal_teacher");
  TORCH_CHECK_VALUE(modalities > 0 && count > 0 && universal > 0, kOp, ": got ", modalities, " modalities, ", count,
                    " training and ", universal, " universal triples; wanted at least one of each");
  TORCH_CHECK_VALUE(temperature > 0, kOp, ": temperature=", temperature, "; choose a number above zero");
  const CkdOptions options{generic_weight, 1 / temperature, eps,
                           parse<CkdSpecific>(specific, "specific", {"hinge", "cross_entropy", "square"}),
                           parse<CkdWeights>(weights, "weights", {"paper", "code", "uniform", "ones"})};
  const bool by_triple = options.weights == CkdWeights::kCode;
  TORCH_CHECK_VALUE(!by_triple || modalities == 2, kOp, ": weights='code' is defined for 2 modalities, got ",
                    modalities, "; choose weights='paper'");
  const DeviceScope scope(student);
  const at::Tensor all[] = {margin.contiguous(),  student.contiguous(),           masked.contiguous(),
                            teacher.contiguous(), universal_student.contiguous(), universal_teacher.contiguous()};
  const auto doubles = student.options().dtype(at::kDouble);
  const at::Tensor weight = at::empty({modalities}, doubles), sums = at::empty({kCkdSums}, doubles);
  const at::Tensor each = at::empty({by_triple ? modalities * count : 0}, student.options());
  const at::Tensor loss = at::empty({}, student.options()), mean = at::empty({modalities}, student.options());
  const at::Tensor slope = at::empty(student.sizes(), student.options());
  const at::Tensor universal_slope = at::empty(universal_student.sizes(), student.options());
  const auto run = [&]<typename T>(T) {
    const CkdMargins<T> in{all[0].const_data_ptr<T>(),
                           all[1].const_data_ptr<T>(),
                           all[2].const_data_ptr<T>(),
                           all[3].const_data_ptr<T>(),
                           all[4].const_data_ptr<T>(),
                           all[5].const_data_ptr<T>(),
                           modalities,
                           count,
                           universal};
    check(ckd_loss_forward(in, options, weight.mutable_data_ptr<double>(), each.mutable_data_ptr<T>(),
                           sums.mutable_data_ptr<double>(), loss.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(),
                           slope.mutable_data_ptr<T>(), universal_slope.mutable_data_ptr<T>(), scope.stream()));
  };
  student.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, mean, slope, universal_slope};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("ckd_loss", &ckd_loss); }

}  // namespace mmfast
