// transfer_kl on CUDA: checks, allocation, dispatch by type.
#include "transfer_kl.h"

#include <ATen/ops/empty.h>

#include <tuple>
#include <utility>

#include "bind.h"

namespace mmfast {
namespace {

void check_arguments(const char* op, const at::Tensor& users, const at::Tensor& items, const at::Tensor& content,
                     double temperature) {
  check_dim(users, 2, op, "users");
  check_real(users, op, "users");
  check_dim(items, 2, op, "items");
  check_dim(content, 3, op, "content");
  for (const auto& [name, t] : {std::pair{"items", &items}, {"content", &content}}) {
    check_dtype(*t, users.scalar_type(), op, name);
    check_size(*t, t->dim() - 2, users.size(0), op, name);
    check_size(*t, t->dim() - 1, users.size(1), op, name);
    check_device(*t, users, op, name);
  }
  TORCH_CHECK_VALUE(users.size(0) > 0, op, ": the batch is empty; wanted at least one user");
  TORCH_CHECK_VALUE(content.size(0) >= 1 && content.size(0) <= kKlModalities, op, ": content holds ", content.size(0),
                    " modalities; wanted 1 to ", kKlModalities);
  TORCH_CHECK_VALUE(temperature > 0, op, ": temperature=", temperature, "; choose a number above zero");
}

// The arguments, contiguous.
struct Tables {
  at::Tensor users, items, content;
  double temperature;

  template <typename T>
  KlTables<T> view() const {
    return {users.const_data_ptr<T>(),
            items.const_data_ptr<T>(),
            content.const_data_ptr<T>(),
            content.size(0),
            users.size(0),
            users.size(1),
            static_cast<T>(1 / temperature)};
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& users, const at::Tensor& items,
                                                       const at::Tensor& content, double temperature) {
  check_arguments("transfer_kl", users, items, content, temperature);
  const DeviceScope scope(users);
  const Tables in{users.contiguous(), items.contiguous(), content.contiguous(), temperature};
  const at::Tensor loss = at::empty({users.size(0)}, users.options());
  const at::Tensor softmax = at::empty({2, 1 + content.size(0), users.size(0)}, users.options());
  const at::Tensor slope = at::empty(users.sizes(), users.options());
  const auto run = [&]<typename T>(T) {
    check(transfer_kl_forward(in.view<T>(), loss.mutable_data_ptr<T>(), softmax.mutable_data_ptr<T>(),
                              slope.mutable_data_ptr<T>(), scope.stream()));
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, softmax, slope};
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& softmax, const at::Tensor& users, const at::Tensor& items,
                    const at::Tensor& content, double temperature) {
  const char* op = "transfer_kl_backward";
  check_arguments(op, users, items, content, temperature);
  for (const auto& [name, t] : {std::pair{"grad", &grad}, {"softmax", &softmax}}) {
    check_dtype(*t, users.scalar_type(), op, name);
    check_device(*t, users, op, name);
  }
  check_dim(grad, 1, op, "grad");
  check_dim(softmax, 3, op, "softmax");
  check_size(softmax, 0, 2, op, "softmax");
  check_size(grad, 0, users.size(0), op, "grad");
  check_size(softmax, 1, 1 + content.size(0), op, "softmax");
  check_size(softmax, 2, users.size(0), op, "softmax");
  const DeviceScope scope(users);
  const Tables in{users.contiguous(), items.contiguous(), content.contiguous(), temperature};
  const at::Tensor slope = grad.contiguous(), total = softmax.contiguous();
  const at::Tensor out = at::empty(content.sizes(), content.options());
  const auto run = [&]<typename T>(T) {
    check(transfer_kl_backward(in.view<T>(), slope.const_data_ptr<T>(), total.const_data_ptr<T>(),
                               out.mutable_data_ptr<T>(), scope.stream()));
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("transfer_kl", &forward);
  m.impl("transfer_kl_backward", &backward);
}

}  // namespace mmfast
