// Top-k items of every user by inner product, train items left out, hits looked up: never a users x items matrix.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../check.h"
#include "candidates.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "rank";
constexpr int64_t kUsers = 256;   // users of a piece of work
constexpr int64_t kItems = 1024;  // items scored at a time: the tile of scores stays in the cache

// One ascending list of item ids per user.
struct Lists {
  const int64_t* ptr;
  const int32_t* items;

  const int32_t* begin(int64_t user) const { return items + ptr[user]; }
  const int32_t* end(int64_t user) const { return items + ptr[user + 1]; }
};

struct Output {
  int32_t* items;
  void* scores;
  bool* hits;
};

Lists check_lists(const at::Tensor& ptr, const at::Tensor& items, int64_t num_users, int64_t num_items,
                  const char* ptr_name, const char* name) {
  check_dim(ptr, 1, kOp, ptr_name);
  check_dim(items, 1, kOp, name);
  check_dtype(ptr, at::kLong, kOp, ptr_name);
  check_dtype(items, at::kInt, kOp, name);
  check_size(ptr, 0, num_users + 1, kOp, ptr_name);
  check_ids(items, num_items, kOp, name);
  const Lists lists{ptr.const_data_ptr<int64_t>(), items.const_data_ptr<int32_t>()};
  TORCH_CHECK(lists.ptr[0] >= 0 && lists.ptr[num_users] <= items.numel(), kOp, ": ", ptr_name, " runs from ",
              lists.ptr[0], " to ", lists.ptr[num_users], "; wanted offsets into the ", items.numel(), " ", name);
  for (int64_t user = 0; user < num_users; ++user) {
    TORCH_CHECK(lists.ptr[user] <= lists.ptr[user + 1], kOp, ": ", ptr_name, " falls from ", lists.ptr[user], " to ",
                lists.ptr[user + 1], " at user row ", user, "; wanted ascending offsets");
    TORCH_CHECK(std::is_sorted(lists.begin(user), lists.end(user)), kOp, ": ", name, " of user row ", user,
                " do not ascend; sort them");
  }
  return lists;
}

template <typename T>
class Ranking {
 public:
  Ranking(const at::Tensor& users, const at::Tensor& items, Lists mask, Lists targets, int64_t k, Output out)
      : users_(users), items_t_(items.t()), mask_(mask), targets_(targets), k_(k), out_(out) {}

  // Returns the first user row with a NaN score, or -1.
  int64_t run() {
    const int64_t num_users = users_.size(0);
    Pieces pieces((num_users + kUsers - 1) / kUsers);
    int64_t first_nan = num_users;
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      Worker worker(*this);
      for (int64_t piece; pieces.take(piece);) worker.run(piece * kUsers);
#pragma omp critical(mmfast_rank)
      first_nan = std::min(first_nan, worker.first_nan);
    });
    return first_nan == num_users ? -1 : first_nan;
  }

 private:
  struct Worker {
    explicit Worker(const Ranking& ranking)
        : all(ranking), scores(at::empty({kUsers * kItems}, ranking.users_.options())), first_nan(all.users_.size(0)) {
      for (int64_t u = 0; u < kUsers; ++u) lists.emplace_back(all.k_);
    }

    void run(int64_t begin) {
      const int64_t count = std::min(kUsers, all.users_.size(0) - begin), num_items = all.items_t_.size(1);
      for (int64_t u = 0; u < count; ++u) {
        lists[u].clear();
        masked[u] = all.mask_.begin(begin + u);
      }
      const auto left = all.users_.narrow(0, begin, count);
      for (int64_t item = 0; item < num_items; item += kItems) {
        const int64_t width = std::min(kItems, num_items - item);
        auto tile = scores.narrow(0, 0, count * width).view({count, width});
        at::mm_out(tile, left, all.items_t_.narrow(1, item, width));
        for (int64_t u = 0; u < count; ++u) {
          T* row = tile.template mutable_data_ptr<T>() + u * width;
          hide(u, begin + u, row, item, item + width);
          lists[u].scan(row, width, static_cast<int32_t>(item));
        }
      }
      for (int64_t u = 0; u < count; ++u) write(lists[u], begin + u);
    }

    void hide(int64_t u, int64_t user, T* row, int64_t item, int64_t end) {
      const int32_t* last = all.mask_.end(user);
      for (; masked[u] != last && *masked[u] < end; ++masked[u]) {
        row[*masked[u] - item] = -std::numeric_limits<T>::infinity();
      }
    }

    void write(Candidates<T>& list, int64_t user) {
      const int64_t k = all.k_;
      int32_t* ids = all.out_.items + user * k;
      T* best = static_cast<T*>(all.out_.scores) + user * k;
      bool* hits = all.out_.hits + user * k;
      const int64_t found = list.finish(ids, best);
      if (list.saw_nan()) first_nan = std::min(first_nan, user);
      std::fill(ids + found, ids + k, -1);
      std::fill(best + found, best + k, -std::numeric_limits<T>::infinity());
      const int32_t *begin = all.targets_.begin(user), *end = all.targets_.end(user);
      for (int64_t r = 0; r < k; ++r) hits[r] = std::binary_search(begin, end, ids[r]);
    }

    const Ranking& all;
    const at::Tensor scores;
    std::vector<Candidates<T>> lists;
    const int32_t* masked[kUsers];  // the next masked item of each user
    int64_t first_nan;
  };

  const at::Tensor users_, items_t_;
  const Lists mask_, targets_;
  const int64_t k_;
  const Output out_;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> rank(const at::Tensor& users, const at::Tensor& items,
                                                    const at::Tensor& mask_ptr, const at::Tensor& mask_items,
                                                    const at::Tensor& target_ptr, const at::Tensor& target_items,
                                                    int64_t k) {
  check_dim(users, 2, kOp, "users");
  check_dim(items, 2, kOp, "items");
  check_real(users, kOp, "users");
  check_dtype(items, users.scalar_type(), kOp, "items");
  check_size(items, 1, users.size(1), kOp, "items");
  const int64_t num_users = users.size(0), num_items = items.size(0);
  TORCH_CHECK_VALUE(k >= 1 && k <= num_items, kOp, ": k=", k, " but there are only ", num_items,
                    " items; choose k <= ", num_items);
  const auto left = users.contiguous(), right = items.contiguous(), hide_ptr = mask_ptr.contiguous(),
             hide = mask_items.contiguous(), want_ptr = target_ptr.contiguous(), want = target_items.contiguous();
  const Lists mask = check_lists(hide_ptr, hide, num_users, num_items, "mask_ptr", "mask_items");
  const Lists targets = check_lists(want_ptr, want, num_users, num_items, "target_ptr", "target_items");
  auto top = at::empty({num_users, k}, users.options().dtype(at::kInt));
  auto scores = at::empty({num_users, k}, users.options());
  auto hits = at::empty({num_users, k}, users.options().dtype(at::kBool));
  const Output out{top.mutable_data_ptr<int32_t>(), scores.mutable_data_ptr(), hits.mutable_data_ptr<bool>()};
  const int64_t nan = users.scalar_type() == at::kFloat ? Ranking<float>(left, right, mask, targets, k, out).run()
                                                        : Ranking<double>(left, right, mask, targets, k, out).run();
  TORCH_CHECK_VALUE(nan < 0, kOp, ": the scores of user row ", nan,
                    " hold NaN; look for NaN or infinity in the user and item tables");
  return {top, scores, hits};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("rank", rank); }

}  // namespace mmfast
