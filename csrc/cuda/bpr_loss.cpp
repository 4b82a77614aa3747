// Binds the BPR kernels: checks, and the entries of the batch sorted by row for the backward pass.
#include "bpr_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "../loss_checks.h"
#include "bind.h"
#include "triple_margins.h"

namespace mmfast {
namespace {

BprKind parse_kind(std::string_view name) {
  if (name == "logsigmoid") return BprKind::kLogSigmoid;
  if (name == "eps") return BprKind::kEps;
  if (name == "raw") return BprKind::kRaw;
  TORCH_CHECK(name == "log2", "bpr_loss: kind is '", name, "'; wanted logsigmoid, eps, raw or log2");
  return BprKind::kLog2;
}

// The arguments of both passes, checked, contiguous, ids as int64.
struct Batch {
  Batch(const char* op, const at::Tensor& users, const at::Tensor& items, const at::Tensor& user, const at::Tensor& pos,
        const at::Tensor& neg, cudaStream_t stream)
      : users(users.contiguous()), items(items.contiguous()) {
    check_triples(users, items, user, op);
    const auto ids = [&](const at::Tensor& index, int64_t rows, const char* name) {
      check_dim(index, 1, op, name);
      check_size(index, 0, user.size(0), op, name);
      check_device(index, users, op, name);
      const at::Tensor dense = index.contiguous();
      check_device_ids(dense, rows, op, name, stream);
      return dense.to(at::kLong);
    };
    this->user = ids(user, users.size(0), "user_index");
    this->pos = ids(pos, items.size(0), "pos_index");
    this->neg = ids(neg, items.size(0), "neg_index");
  }

  template <typename T>
  Triples<T> view() const {
    return {users.const_data_ptr<T>(),
            items.const_data_ptr<T>(),
            user.const_data_ptr<int64_t>(),
            pos.const_data_ptr<int64_t>(),
            neg.const_data_ptr<int64_t>(),
            user.numel(),
            users.size(1)};
  }

  at::Tensor users, items, user, pos, neg;
};

// Batch entries by row: stable, so entries of one row keep the order of the batch.
struct Sorted {
  explicit Sorted(const at::Tensor& keys) {
    std::tie(row, entry) = at::sort(keys, /*stable=*/std::optional(true), /*dim=*/0);
  }

  Grouped view() const { return {row.const_data_ptr<int64_t>(), entry.const_data_ptr<int64_t>(), row.numel()}; }

  at::Tensor row, entry;
};

std::tuple<at::Tensor, at::Tensor> loss_op(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
                                           const at::Tensor& pos, const at::Tensor& neg, std::string_view kind) {
  const DeviceScope scope(users);
  const Batch batch("bpr_loss", users, items, user, pos, neg, scope.stream());
  const BprKind formula = parse_kind(kind);
  const at::Tensor slope = at::empty({user.size(0)}, users.options());
  const at::Tensor loss = at::empty({}, users.options());
  const at::Tensor sums = at::empty({bpr_loss_sums(user.size(0))}, users.options().dtype(at::kDouble));
  const auto run = [&]<typename T>(T) {
    check(bpr_loss_forward(batch.view<T>(), formula, slope.mutable_data_ptr<T>(), sums.mutable_data_ptr<double>(),
                           loss.mutable_data_ptr<T>(), scope.stream()));
  };
  users.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {loss, slope};
}

std::tuple<at::Tensor, at::Tensor> backward_op(const at::Tensor& grad, const at::Tensor& slope, const at::Tensor& users,
                                               const at::Tensor& items, const at::Tensor& user, const at::Tensor& pos,
                                               const at::Tensor& neg) {
  const DeviceScope scope(users);
  const char* op = "bpr_loss_backward";
  const Batch batch(op, users, items, user, pos, neg, scope.stream());
  check_dtype(slope, users.scalar_type(), op, "slope");
  check_dim(slope, 1, op, "slope");
  check_size(slope, 0, user.size(0), op, "slope");
  check_device(slope, users, op, "slope");
  check_dtype(grad, users.scalar_type(), op, "grad");
  check_device(grad, users, op, "grad");
  const at::Tensor grad_users = at::zeros_like(batch.users), grad_items = at::zeros_like(batch.items);
  const at::Tensor dense = slope.contiguous();
  const Sorted by_user(batch.user), by_item(at::stack({batch.pos, batch.neg}, 1).flatten());
  const auto run = [&]<typename T>(T) {
    check(bpr_loss_backward(batch.view<T>(), dense.const_data_ptr<T>(), grad.const_data_ptr<T>(), by_user.view(),
                            by_item.view(), grad_users.mutable_data_ptr<T>(), grad_items.mutable_data_ptr<T>(),
                            scope.stream()));
  };
  users.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return {grad_users, grad_items};
}

at::Tensor triple_margins(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
                          const at::Tensor& pos, const at::Tensor& neg) {
  const DeviceScope scope(users);
  const Batch batch("triple_margins", users, items, user, pos, neg, scope.stream());
  const at::Tensor margins = at::empty({user.size(0)}, users.options());
  const auto run = [&]<typename T>(T) {
    check(triple_margins_forward(batch.view<T>(), margins.mutable_data_ptr<T>(), scope.stream()));
  };
  users.scalar_type() == at::kFloat ? run(float{}) : run(double{});
  return margins;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("bpr_loss", &loss_op);
  m.impl("bpr_loss_backward", &backward_op);
  m.impl("triple_margins", &triple_margins);
}

}  // namespace mmfast
