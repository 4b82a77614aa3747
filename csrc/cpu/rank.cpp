// Top-k items of every user by inner product, train items left out, hits looked up: never a users x items matrix.
// Where bfloat16 proposes, float32 decides among the proposals that its proven error leaves possible, and a user whose
// kept proposals are too few for the proof is scored again in float32.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "../check.h"
#include "../search_checks.h"
#include "candidates.h"
#include "proposals.h"
#include "topk.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "rank";
constexpr int64_t kUsers = 256;   // users of a piece of work
constexpr int64_t kItems = 1024;  // items scored at a time: the tile of scores stays in the cache
constexpr int64_t kSpare = 64;    // proposals kept beyond twice the items wanted

// One ascending list of item ids per user.
struct Lists {
  const int64_t* ptr;
  const int32_t* items;

  const int32_t* begin(int64_t user) const { return items + ptr[user]; }
  const int32_t* end(int64_t user) const { return items + ptr[user + 1]; }
};

// What is ranked: some rows of the item table, each with a place in the order of their ids.
struct Pool {
  at::Tensor rows;              // [C, D]
  std::vector<int32_t> ids;     // [C], empty where all items are ranked
  std::vector<int32_t> places;  // [I], the first place from each id on

  int64_t size() const { return rows.size(0); }
  int32_t id(int32_t place) const { return ids.empty() ? place : ids[place]; }
  int32_t place(int32_t id) const { return ids.empty() ? id : places[id]; }
  bool holds(int32_t id) const { return ids.empty() || (places[id] < size() && ids[places[id]] == id); }
};

struct Output {
  int32_t* items;
  void* scores;
  bool* hits;
};

template <typename T>
class Ranking {
 public:
  Ranking(const at::Tensor& users, const Pool& pool, Lists mask, Lists targets, int64_t k, Output out)
      : users_(users), items_t_(pool.rows.t()), pool_(pool), mask_(mask), targets_(targets), k_(k), out_(out) {}

  // Makes bfloat16 products propose.
  void propose() {
    kept_ = std::min(pool_.size(), 2 * k_ + kSpare);
    rounded_users_ = users_.to(at::kBFloat16);
    rounded_items_t_ = pool_.rows.to(at::kBFloat16).t();
    Rounding worst_item;
    for (const Rounding& item : roundings(pool_.rows)) worst_item.join(item);
    for (const Rounding& user : roundings(users_)) errors_.push_back(product_error(user, worst_item, users_.size(1)));
  }

  // Returns the first user row with a NaN score, or -1.
  int64_t run() {
    const int64_t num_users = users_.size(0);
    Pieces pieces((num_users + kUsers - 1) / kUsers);
    int64_t first_nan = num_users;
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      Worker worker(*this);
      for (int64_t piece; pieces.take(piece);) worker.run(piece * kUsers, std::min(num_users, (piece + 1) * kUsers));
#pragma omp critical(mmfast_rank)
      first_nan = std::min(first_nan, worker.first_nan);
    });
    return first_nan == num_users ? -1 : first_nan;
  }

 private:
  struct Worker {
    explicit Worker(const Ranking& ranking)
        : all(ranking),
          scores(at::empty({kUsers * kItems}, ranking.users_.options())),
          products(all.kept_ ? at::empty({kUsers * kItems}, scores.options().dtype(at::kBFloat16)) : scores),
          proposals(all.kept_ ? kUsers : 0, Candidates<T>(all.kept_)),
          lists(kUsers, Candidates<T>(all.k_)),
          places(std::max(all.k_, all.kept_)),
          best(places.size()),
          first_nan(all.users_.size(0)) {}

    void run(int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      std::vector<int64_t> rows(count);
      std::iota(rows.begin(), rows.end(), begin);
      auto left = all.users_.narrow(0, begin, count);
      if constexpr (std::is_same_v<T, float>) {
        if (all.kept_) {
          rows = leave_undecided(rows, all.rounded_users_.narrow(0, begin, count));
          left = all.users_.index_select(0, at::tensor(rows));
        }
      }
      score(rows, left, all.items_t_, scores, lists);
      for (size_t u = 0; u < rows.size(); ++u) {
        const int64_t found = lists[u].finish(places.data(), best.data());
        if (lists[u].saw_nan()) first_nan = std::min(first_nan, rows[u]);
        write(rows[u], found);
      }
    }

    std::vector<int64_t> leave_undecided(const std::vector<int64_t>& rows, const at::Tensor& left) {
      score(rows, left, all.rounded_items_t_, products, proposals);
      std::vector<int64_t> undecided;
      for (size_t u = 0; u < rows.size(); ++u) {
        if (!decide(proposals[u], rows[u])) undecided.push_back(rows[u]);
      }
      return undecided;
    }

    // Leaves in to[u] the best places of user row rows[u], whose vector is left[u].
    void score(const std::vector<int64_t>& rows, const at::Tensor& left, const at::Tensor& items_t,
               const at::Tensor& store, std::vector<Candidates<T>>& to) {
      const int64_t count = left.size(0), num_items = count ? items_t.size(1) : 0;
      for (int64_t u = 0; u < count; ++u) {
        to[u].clear();
        masked[u] = all.mask_.begin(rows[u]);
      }
      for (int64_t item = 0; item < num_items; item += kItems) {
        const int64_t width = std::min(kItems, num_items - item);
        auto product = store.narrow(0, 0, count * width).view({count, width});
        at::mm_out(product, left, items_t.narrow(1, item, width));
        const auto tile = scores.narrow(0, 0, count * width);
        if (!store.is_same(scores)) tile.copy_(product.view(-1));
        for (int64_t u = 0; u < count; ++u) {
          T* row = tile.template mutable_data_ptr<T>() + u * width;
          hide(u, rows[u], row, item, item + width);
          to[u].scan(row, width, static_cast<int32_t>(item));
        }
      }
    }

    void hide(int64_t u, int64_t user, T* row, int64_t begin, int64_t end) {
      const Pool& pool = all.pool_;
      for (; masked[u] != all.mask_.end(user) && pool.place(*masked[u]) < end; ++masked[u]) {
        if (pool.holds(*masked[u])) row[pool.place(*masked[u]) - begin] = -std::numeric_limits<T>::infinity();
      }
    }

    // Writes the user's list unless more than the kept proposals may belong in it.
    bool decide(Candidates<T>& list, int64_t user) {
      const int64_t found = list.finish(places.data(), best.data()), width = all.users_.size(1);
      if (list.saw_nan() || !std::isfinite(all.errors_[user])) return false;
      int64_t count = found;
      if (found > all.k_) {
        const T least = least_contender(best[all.k_ - 1], all.errors_[user]);
        while (best[count - 1] < least) --count;
      }
      if (count == all.kept_ && count < all.pool_.size()) return false;
      const T* vector = all.users_.template const_data_ptr<T>() + user * width;
      const T* items = all.pool_.rows.template const_data_ptr<T>();
      order.resize(count);
      for (int64_t c = 0; c < count; ++c) {
        order[c] = {decisive_product(vector, items + places[c] * width, width), places[c]};
      }
      std::sort(order.begin(), order.end(),
                [](const auto& a, const auto& b) { return better(a.first, a.second, b.first, b.second); });
      for (int64_t c = 0; c < count; ++c) std::tie(best[c], places[c]) = order[c];
      write(user, std::min(count, all.k_));
      return true;
    }

    void write(int64_t user, int64_t found) {
      const int64_t k = all.k_;
      int32_t* ids = all.out_.items + user * k;
      T* top = static_cast<T*>(all.out_.scores) + user * k;
      bool* hits = all.out_.hits + user * k;
      const int32_t *begin = all.targets_.begin(user), *end = all.targets_.end(user);
      for (int64_t r = 0; r < k; ++r) {
        ids[r] = r < found ? all.pool_.id(places[r]) : -1;
        top[r] = r < found ? best[r] : -std::numeric_limits<T>::infinity();
        hits[r] = std::binary_search(begin, end, ids[r]);
      }
    }

    const Ranking& all;
    const at::Tensor scores, products;
    std::vector<Candidates<T>> proposals, lists;
    std::vector<int32_t> places;
    std::vector<T> best;
    std::vector<std::pair<T, int32_t>> order;
    const int32_t* masked[kUsers];  // the next masked item of each user
    int64_t first_nan;
  };

  static std::vector<Rounding> roundings(const at::Tensor& table) {
    std::vector<Rounding> rows(table.size(0));
    const float* x = table.const_data_ptr<float>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
    for (int64_t r = 0; r < table.size(0); ++r) rows[r] = rounding_of(x + r * table.size(1), table.size(1));
    return rows;
  }

  const at::Tensor users_, items_t_;
  const Pool& pool_;
  const Lists mask_, targets_;
  const int64_t k_;
  const Output out_;
  int64_t kept_ = 0;  // proposals a user; 0: none are made
  at::Tensor rounded_users_, rounded_items_t_;
  std::vector<double> errors_;  // how far the products of a user can be off
};

Pool make_pool(const at::Tensor& items, const std::optional<at::Tensor>& candidates, at::ScalarType real) {
  if (!candidates) return {items.to(real).contiguous(), {}, {}};
  check_dim(*candidates, 1, kOp, "candidates");
  check_dtype(*candidates, at::kInt, kOp, "candidates");
  const auto list = candidates->contiguous();
  check_ids(list, items.size(0), kOp, "candidates");
  const int32_t *begin = list.const_data_ptr<int32_t>(), *end = begin + list.numel();
  TORCH_CHECK(std::adjacent_find(begin, end, std::greater_equal<>()) == end, kOp,
              ": candidates do not ascend; sort them and leave repeated ones out");
  Pool pool{items.index_select(0, list).to(real), {begin, end}, std::vector<int32_t>(items.size(0))};
  for (int64_t id = 0, place = 0; id < items.size(0); ++id) {
    pool.places[id] = static_cast<int32_t>(place);
    if (begin + place != end && begin[place] == id) ++place;
  }
  return pool;
}

template <typename T>
int64_t run(Ranking<T> ranking, bool proposed) {
  if constexpr (std::is_same_v<T, float>) {
    if (proposed) ranking.propose();
  }
  return ranking.run();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rank(const at::Tensor& users, const at::Tensor& items,
                                                    const at::Tensor& mask_ptr, const at::Tensor& mask_items,
                                                    const at::Tensor& target_ptr, const at::Tensor& target_items,
                                                    const std::optional<at::Tensor>& candidates, int64_t k,
                                                    c10::string_view precision) {
  check_rank_tables(users, items, kOp);
  const bool wide = users.scalar_type() == at::kDouble;
  const bool proposed = proposes(precision, users.scalar_type(), users.size(1), kOp);
  const auto left = users.to(wide ? at::kDouble : at::kFloat).contiguous();
  const Pool pool = make_pool(items, candidates, left.scalar_type());
  const int64_t num_users = users.size(0), num_items = items.size(0);
  check_rank_k(k, pool.size(), candidates.has_value(), kOp);
  const auto hide_ptr = mask_ptr.contiguous(), hide = mask_items.contiguous(), want_ptr = target_ptr.contiguous(),
             want = target_items.contiguous();
  check_lists(hide_ptr, hide, num_users, num_items, kOp, "mask_ptr", "mask_items");
  check_lists(want_ptr, want, num_users, num_items, kOp, "target_ptr", "target_items");
  const Lists mask{hide_ptr.const_data_ptr<int64_t>(), hide.const_data_ptr<int32_t>()};
  const Lists targets{want_ptr.const_data_ptr<int64_t>(), want.const_data_ptr<int32_t>()};
  auto top = at::empty({num_users, k}, left.options().dtype(at::kInt));
  auto scores = at::empty({num_users, k}, left.options());
  auto hits = at::empty({num_users, k}, left.options().dtype(at::kBool));
  const Output out{top.mutable_data_ptr<int32_t>(), scores.mutable_data_ptr(), hits.mutable_data_ptr<bool>()};
  const int64_t nan = wide ? run(Ranking<double>(left, pool, mask, targets, k, out), false)
                           : run(Ranking<float>(left, pool, mask, targets, k, out), proposed);
  TORCH_CHECK_VALUE(nan < 0, kOp, ": the scores of user row ", nan,
                    " hold NaN; look for NaN or infinity in the user and item tables");
  return {top, scores, hits};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("rank", rank); }

}  // namespace mmfast
