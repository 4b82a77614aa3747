// Arguments of the losses, checked alike on every device; the values of ids and offsets are left to the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "check.h"
#include "losses.h"

namespace mmfast {

inline void check_temperature(double temperature, const char* op) {
  TORCH_CHECK_VALUE(temperature > 0, op, ": temperature=", temperature, "; choose a number above zero");
}

// The tables of a batch of triples, and that there is a triple.
inline void check_triples(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user, const char* op) {
  check_dim(users, 2, op, "users");
  check_dim(items, 2, op, "items");
  check_real(users, op, "users");
  check_like(items, users, op, "items");
  check_size(items, 1, users.size(1), op, "items");
  check_dim(user, 1, op, "user_index");
  TORCH_CHECK(user.size(0) > 0, op, ": the batch is empty; wanted at least one (user, item, item) row");
}

inline void check_info_nce(const at::Tensor& x, const at::Tensor& y, double temperature, const char* op) {
  check_dim(x, 2, op, "x");
  check_dim(y, 2, op, "y");
  check_real(x, op, "x");
  check_like(y, x, op, "y");
  check_size(y, 1, x.size(1), op, "y");
  TORCH_CHECK_VALUE(x.size(0) > 0, op, ": there are no anchors; wanted at least one row of x");
  check_temperature(temperature, op);
}

// A gradient [B] of losses, and softmax [2, ..., B].
inline void check_softmax(const at::Tensor& grad, const at::Tensor& softmax, const at::Tensor& x, int64_t dims,
                          const char* op) {
  check_dim(grad, 1, op, "grad");
  check_dim(softmax, dims, op, "softmax");
  check_size(softmax, 0, 2, op, "softmax");
  for (const auto& [name, t] : {std::pair{"grad", &grad}, {"softmax", &softmax}}) {
    check_like(*t, x, op, name);
    check_size(*t, -1, x.size(0), op, name);
  }
}

inline void check_transfer_kl(const at::Tensor& users, const at::Tensor& items, const at::Tensor& content,
                              double temperature, const char* op) {
  check_dim(users, 2, op, "users");
  check_real(users, op, "users");
  check_dim(items, 2, op, "items");
  check_dim(content, 3, op, "content");
  for (const auto& [name, t] : {std::pair{"items", &items}, {"content", &content}}) {
    check_like(*t, users, op, name);
    check_size(*t, t->dim() - 2, users.size(0), op, name);
    check_size(*t, t->dim() - 1, users.size(1), op, name);
  }
  TORCH_CHECK_VALUE(users.size(0) > 0, op, ": the batch is empty; wanted at least one user");
  TORCH_CHECK_VALUE(content.size(0) >= 1 && content.size(0) <= kKlModalities, op, ": content holds ", content.size(0),
                    " modalities; wanted 1 to ", kKlModalities);
  check_temperature(temperature, op);
}

inline void check_target_contrast(const at::Tensor& image_target, const at::Tensor& image_aux,
                                  const at::Tensor& text_target, const at::Tensor& text_aux, double temperature,
                                  const char* op) {
  check_dim(image_target, 2, op, "image_target");
  check_real(image_target, op, "image_target");
  for (const auto& [name, t] :
       {std::pair{"image_aux", &image_aux}, {"text_target", &text_target}, {"text_aux", &text_aux}}) {
    check_dim(*t, 2, op, name);
    check_like(*t, image_target, op, name);
    check_size(*t, 1, image_target.size(1), op, name);
  }
  check_size(text_target, 0, image_target.size(0), op, "text_target");
  TORCH_CHECK_VALUE(image_target.size(0) > 0, op, ": the batch is empty; wanted at least one item");
  check_temperature(temperature, op);
}

inline void check_moments(const at::Tensor& x, const char* op) {
  check_real(x, op, "x");
  TORCH_CHECK_VALUE(x.numel() >= 2, op, ": x holds ", x.numel(), " numbers; a variance needs at least two");
}

inline void check_moments_backward(const at::Tensor& grad, const at::Tensor& moments, const at::Tensor& x,
                                   const char* op) {
  check_moments(x, op);
  for (const auto& [name, t] : {std::pair{"grad", &grad}, {"moments", &moments}}) {
    check_like(*t, x, op, name);
    check_dim(*t, 1, op, name);
    check_size(*t, 0, 2, op, name);
  }
}

// The arguments of ckd_loss, checked and contiguous.
class CkdArguments {
 public:
  CkdArguments(const at::Tensor& margin, const at::Tensor& student, const at::Tensor& masked, const at::Tensor& teacher,
               const at::Tensor& universal_student, const at::Tensor& universal_teacher)
      : tensors_{margin.contiguous(),  student.contiguous(),           masked.contiguous(),
                 teacher.contiguous(), universal_student.contiguous(), universal_teacher.contiguous()} {
    check_dim(student, 2, kOp, "student");
    check_real(student, kOp, "student");
    check_dim(universal_student, 2, kOp, "universal_student");
    check_dim(margin, 1, kOp, "margin");
    check_like(margin, student, kOp, "margin");
    check_size(margin, 0, student.size(1), kOp, "margin");
    check_stack(masked, student.size(1), "masked");
    check_stack(teacher, student.size(1), "teacher");
    check_stack(universal_student, universal_student.size(1), "universal_student");
    check_stack(universal_teacher, universal_student.size(1), "universal_teacher");
    TORCH_CHECK_VALUE(student.numel() > 0 && universal_student.numel() > 0, kOp, ": got ", student.size(0),
                      " modalities, ", student.size(1), " training and ", universal_student.size(1),
                      " universal triples; wanted at least one of each");
  }

  CkdOptions options(double generic_weight, double temperature, double eps, std::string_view specific,
                     std::string_view weights) const {
    check_temperature(temperature, kOp);
    const CkdOptions chosen{generic_weight, 1 / temperature, eps,
                            parse<CkdSpecific>(specific, "specific", {"hinge", "cross_entropy", "square"}),
                            parse<CkdWeights>(weights, "weights", {"paper", "code", "uniform", "ones"})};
    TORCH_CHECK_VALUE(chosen.weights != CkdWeights::kCode || tensors_[1].size(0) == 2, kOp,
                      ": weights='code' is defined for 2 modalities, got ", tensors_[1].size(0),
                      "; choose weights='paper'");
    return chosen;
  }

  template <typename T>
  CkdMargins<T> view() const {
    return {data<T>(0), data<T>(1),          data<T>(2),          data<T>(3),         data<T>(4),
            data<T>(5), tensors_[1].size(0), tensors_[1].size(1), tensors_[4].size(1)};
  }

 private:
  static constexpr const char* kOp = "ckd_loss";

  // A stack of margins [M, size] like the student's.
  void check_stack(const at::Tensor& t, int64_t size, const char* name) const {
    check_dim(t, 2, kOp, name);
    check_like(t, tensors_[1], kOp, name);
    check_size(t, 0, tensors_[1].size(0), kOp, name);
    check_size(t, 1, size, kOp, name);
  }

  // The place of `name` among the names of an enum's values.
  template <typename Kind>
  static Kind parse(std::string_view name, const char* argument, std::initializer_list<std::string_view> names) {
    const auto found = std::find(names.begin(), names.end(), name);
    TORCH_CHECK_VALUE(found != names.end(), kOp, ": ", argument, " is '", name, "'; wanted ",
                      c10::Join(", ", at::ArrayRef<std::string_view>(names)));
    return static_cast<Kind>(found - names.begin());
  }

  template <typename T>
  const T* data(int tensor) const {
    return tensors_[tensor].const_data_ptr<T>();
  }

  at::Tensor tensors_[6];  // in the order of CkdMargins
};

}  // namespace mmfast
