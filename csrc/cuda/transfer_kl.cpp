// transfer_kl on CUDA: checks, allocation, dispatch by type.
#include "transfer_kl.h"

#include <ATen/ops/empty.h>

#include <tuple>
#include <utility>

#include "../loss_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

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
  check_transfer_kl(users, items, content, temperature, "transfer_kl");
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
  check_transfer_kl(users, items, content, temperature, op);
  check_softmax(grad, softmax, users, 3, op);
  check_size(softmax, 1, 1 + content.size(0), op, "softmax");
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
