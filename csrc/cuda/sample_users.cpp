// Binds the draws of distinct users.
#include "sample_users.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "../sample_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

UserDraws checked(const char* op, const at::Tensor& users, int64_t num_entries, int64_t num_draws, int64_t seed,
                  int64_t first_draw) {
  check_sample_users(users, num_entries, num_draws, op);
  return {users.const_data_ptr<int64_t>(),  users.numel(), num_entries, num_draws, static_cast<uint64_t>(seed),
          static_cast<uint64_t>(first_draw)};
}

at::Tensor work_of(const UserDraws& draws, const at::Tensor& users) {
  return at::empty({sample_users_at_once(draws) * draws.num_users}, users.options());
}

unsigned long long* data(const at::Tensor& work) {
  return reinterpret_cast<unsigned long long*>(work.mutable_data_ptr<int64_t>());
}

at::Tensor sample_user_rows(const at::Tensor& user_ptr, const at::Tensor& users, int64_t num_entries, int64_t num_draws,
                            int64_t seed, int64_t first_draw) {
  const char* op = "sample_user_rows";
  const DeviceScope scope(users);
  const at::Tensor ptr = user_ptr.contiguous(), ids = users.contiguous();
  const UserDraws draws = checked(op, ids, num_entries, num_draws, seed, first_draw);
  check_dim(user_ptr, 1, op, "user_ptr");
  check_dtype(user_ptr, at::kLong, op, "user_ptr");
  check_device(user_ptr, users, op, "user_ptr");
  check_device_ids(ids, ptr.numel() - 1, op, "users", scope.stream());
  const int64_t* first = ptr.const_data_ptr<int64_t>();
  check_on_device(
      [&] { return sample_users_check(draws.users, draws.num_users, first, label_of(op, "users"), scope.stream()); },
      [&] {
        const at::Tensor count = ptr.cpu().diff().index_select(0, ids.cpu());
        const at::Tensor bad = count.lt(1).logical_or(count.ge(int64_t{1} << 32)).nonzero();
        TORCH_CHECK(bad.numel() == 0, op, ": user ", ids[bad[0].item<int64_t>()].item<int64_t>(), " has ",
                    count[bad[0].item<int64_t>()].item<int64_t>(),
                    " rows; wanted 1 to 2^32 - 2; leave users without rows out of users");
      });
  const at::Tensor out = at::empty({num_draws * num_entries}, users.options()), work = work_of(draws, users);
  if (out.numel() > 0) {
    check(sample_users_rows(draws, first, data(work), out.mutable_data_ptr<int64_t>(), scope.stream()));
  }
  return out;
}

at::Tensor sample_triples(const at::Tensor& users, int64_t num_items, int64_t num_entries, int64_t num_draws,
                          int64_t seed, int64_t first_draw) {
  const char* op = "sample_triples";
  const DeviceScope scope(users);
  const at::Tensor ids = users.contiguous();
  const UserDraws draws = checked(op, ids, num_entries, num_draws, seed, first_draw);
  TORCH_CHECK(num_items > 0 && num_items < std::numeric_limits<uint32_t>::max(), op, ": num_items=", num_items,
              "; wanted 1 to 2^32 - 2");
  const at::Tensor out = at::empty({3, num_draws * num_entries}, users.options()), work = work_of(draws, users);
  if (out.numel() > 0) {
    check(sample_users_triples(draws, num_items, data(work), out.mutable_data_ptr<int64_t>(), scope.stream()));
  }
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("sample_user_rows", &sample_user_rows);
  m.impl("sample_triples", &sample_triples);
}

}  // namespace mmfast
