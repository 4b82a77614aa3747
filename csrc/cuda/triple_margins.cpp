// triple_margins on CUDA: checks, allocation, dispatch by type.
#include "triple_margins.h"

#include <ATen/ops/empty.h>

#include "bind.h"

namespace mmfast {
namespace {

at::Tensor triple_margins(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
                          const at::Tensor& pos, const at::Tensor& neg) {
  const char* op = "triple_margins";
  check_dim(users, 2, op, "users");
  check_dim(items, 2, op, "items");
  check_real(users, op, "users");
  check_dtype(items, users.scalar_type(), op, "items");
  check_size(items, 1, users.size(1), op, "items");
  check_device(items, users, op, "items");
  check_dim(user, 1, op, "user_index");
  TORCH_CHECK(user.size(0) > 0, op, ": the batch is empty; wanted at least one (user, item, item) row");
  const DeviceScope scope(users);
  const auto ids = [&](const at::Tensor& index, int64_t rows, const char* name) {
    check_dim(index, 1, op, name);
    check_size(index, 0, user.size(0), op, name);
    check_device(index, users, op, name);
    const at::Tensor dense = index.contiguous();
    check_device_ids(dense, rows, op, name, scope.stream());
    return dense.to(at::kLong);
  };
  const at::Tensor index[] = {ids(user, users.size(0), "user_index"), ids(pos, items.size(0), "pos_index"),
                              ids(neg, items.size(0), "neg_index")};
  const at::Tensor left = users.contiguous(), right = items.contiguous();
  const at::Tensor margins = at::empty({user.size(0)}, users.options());
  const auto run = [&]<typename T>(T) {
    check(triple_margins_forward(left.const_data_ptr<T>(), right.const_data_ptr<T>(),
                                 index[0].const_data_ptr<int64_t>(), index[1].const_data_ptr<int64_t>(),
                                 index[2].const_data_ptr<int64_t>(), user.size(0), users.size(1),
                                 margins.mutable_data_ptr<T>(), scope.stream()));
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return margins;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("triple_margins", &triple_margins); }

}  // namespace mmfast
