// Top-k items of every user by inner product, train items left out, hits looked up: never a users x items matrix.
// Matrix products propose, in bfloat16 or in the type of the scores, and one sum in one order decides among the
// proposals that their proven error leaves possible. A user whose kept proposals are too few for the proof goes on to
// the next kind of product, and at last every item is decided.
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
#include "workers.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "rank";
constexpr int64_t kUsers = 256;                  // users of a piece of work, at most
constexpr int64_t kItems = 1024;                 // items scored at a time: the tile of scores stays in the cache
constexpr int64_t kMostKept = int64_t{1} << 19;  // proposals that a worker keeps at a time, beyond those of one user
constexpr int64_t kSpare = 14;  // proposals kept beyond the items wanted; bfloat16 keeps twice as many in all

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

// Products that propose: at most `kept` items of every user, each off by errors[user] and by `output` of itself.
struct Proposing {
  at::Tensor users, items_t;
  int64_t kept;
  float output;
  std::vector<double> errors;
};

template <typename T>
class Ranking {
 public:
  Ranking(const at::Tensor& users, const Pool& pool, Lists mask, Lists targets, int64_t k, Output out, bool rounded)
      : users_(users), pool_(pool), mask_(mask), targets_(targets), k_(k), out_(out) {
    const std::vector<Rounding> of_users = roundings(users), of_items = roundings(pool.rows);
    Rounding worst;
    for (const Rounding& item : of_items) worst.join(item);
    const auto propose = [&](at::ScalarType type, int64_t kept, float output, const auto& error) {
      std::vector<double> errors(of_users.size());
      for (size_t u = 0; u < errors.size(); ++u) errors[u] = error(of_users[u], worst, users.size(1));
      passes_.push_back(
          {users.to(type), pool.rows.to(type).t(), std::min(pool.size(), kept), output, std::move(errors)});
    };
    if (rounded) propose(at::kBFloat16, 2 * (k + kSpare), kBFloat16Output, product_error);
    propose(users.scalar_type(), k + kSpare, 0, matrix_error<T>);
    piece_ = std::clamp<int64_t>(kMostKept / std::max<int64_t>(1, passes_.front().kept), 1, kUsers);
  }

  // Returns the first user row with a NaN score, or -1.
  int64_t run() {
    const int64_t num_users = users_.size(0);
    Pieces pieces((num_users + piece_ - 1) / piece_);
    int64_t first_nan = num_users;
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      Worker worker(*this);
      for (int64_t piece; pieces.take(piece);) worker.run(piece * piece_, std::min(num_users, (piece + 1) * piece_));
#pragma omp critical(mmfast_rank)
      first_nan = std::min(first_nan, worker.first_nan);
    });
    return first_nan == num_users ? -1 : first_nan;
  }

 private:
  struct Worker {
    explicit Worker(const Ranking& ranking)
        : all(ranking),
          scores(at::empty({ranking.piece_ * kItems}, ranking.users_.options())),
          every(all.k_),
          best(std::max(all.k_, all.passes_.front().kept)),
          places(best.size()),
          first_nan(all.users_.size(0)) {
      for (const Proposing& pass : all.passes_) {
        products.push_back(pass.users.scalar_type() == scores.scalar_type()
                               ? scores
                               : at::empty({all.piece_ * kItems}, pass.users.options()));
        proposals.emplace_back(all.piece_, Candidates<T>(pass.kept));
      }
    }

    void run(int64_t begin, int64_t end) {
      std::vector<int64_t> rows(end - begin);
      std::iota(rows.begin(), rows.end(), begin);
      for (size_t pass = 0; pass < all.passes_.size(); ++pass) rows = leave_undecided(pass, rows);
      for (const int64_t user : rows) decide_all(user);
    }

    std::vector<int64_t> leave_undecided(size_t pass, const std::vector<int64_t>& rows) {
      score(pass, rows);
      std::vector<int64_t> undecided;
      for (size_t u = 0; u < rows.size(); ++u) {
        if (!decide(all.passes_[pass], proposals[pass][u], rows[u])) undecided.push_back(rows[u]);
      }
      return undecided;
    }

    // Leaves in proposals[pass][u] the best places of user row rows[u].
    void score(size_t pass, const std::vector<int64_t>& rows) {
      const Proposing& made = all.passes_[pass];
      const auto count = static_cast<int64_t>(rows.size());
      const int64_t num_items = count ? all.pool_.size() : 0;
      if (count == 0) return;
      const bool all_rows = rows.back() - rows.front() + 1 == count;
      const auto left =
          all_rows ? made.users.narrow(0, rows.front(), count) : made.users.index_select(0, at::tensor(rows));
      for (int64_t u = 0; u < count; ++u) {
        proposals[pass][u].clear();
        masked[u] = all.mask_.begin(rows[u]);
      }
      for (int64_t item = 0; item < num_items; item += kItems) {
        const int64_t width = std::min(kItems, num_items - item);
        auto product = products[pass].narrow(0, 0, count * width).view({count, width});
        at::mm_out(product, left, made.items_t.narrow(1, item, width));
        const auto tile = scores.narrow(0, 0, count * width);
        if (!products[pass].is_same(scores)) tile.copy_(product.view(-1));
        for (int64_t u = 0; u < count; ++u) {
          T* row = tile.template mutable_data_ptr<T>() + u * width;
          hide(u, rows[u], row, item, item + width);
          proposals[pass][u].scan(row, width, static_cast<int32_t>(item));
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
    bool decide(const Proposing& made, Candidates<T>& list, int64_t user) {
      const int64_t found = list.take(places.data(), best.data());
      if (list.saw_nan() || !std::isfinite(made.errors[user])) return false;
      const int64_t count = found > all.k_ ? leave_contenders(made, list, user, found) : found;
      if (count == made.kept && count < all.pool_.size()) return false;
      decisive_products(vector_of(user), all.pool_.rows.template const_data_ptr<T>(), places.data(), count,
                        all.users_.size(1), best.data());
      list.sort(places.data(), best.data(), count);
      write(user, std::min(count, all.k_));
      return true;
    }

    // Keeps in front the places that may be among the k best; returns their number.
    int64_t leave_contenders(const Proposing& made, Candidates<T>& list, int64_t user, int64_t found) {
      const T kth = list.kth_best(best.data(), found, all.k_);
      const T least = least_contender(kth, made.errors[user], made.output);
      int64_t count = 0;
      for (int64_t c = 0; c < found; ++c) {
        places[count] = places[c];
        count += best[c] >= least;
      }
      return count;
    }

    // Writes the user's list from the numbers that decide of all items.
    void decide_all(int64_t user) {
      const int64_t num_items = all.pool_.size(), dim = all.users_.size(1);
      T* row = scores.template mutable_data_ptr<T>();
      every.clear();
      masked[0] = all.mask_.begin(user);
      for (int64_t item = 0; item < num_items; item += kItems) {
        const int64_t width = std::min(kItems, num_items - item);
        decisive_products(vector_of(user), all.pool_.rows.template const_data_ptr<T>() + item * dim, nullptr, width,
                          dim, row);
        hide(0, user, row, item, item + width);
        every.scan(row, width, static_cast<int32_t>(item));
      }
      const int64_t found = every.finish(places.data(), best.data());
      if (every.saw_nan()) first_nan = std::min(first_nan, user);
      write(user, found);
    }

    const T* vector_of(int64_t user) const {
      return all.users_.template const_data_ptr<T>() + user * all.users_.size(1);
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
    const at::Tensor scores;
    std::vector<at::Tensor> products;                   // of a pass; `scores` itself where they have its type
    std::vector<std::vector<Candidates<T>>> proposals;  // of a pass and a user
    Candidates<T> every;
    std::vector<T> best;
    std::vector<int32_t> places;
    const int32_t* masked[kUsers];  // the next masked item of each user
    int64_t first_nan;
  };

  static std::vector<Rounding> roundings(const at::Tensor& table) {
    std::vector<Rounding> rows(table.size(0));
    const T* x = table.const_data_ptr<T>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
    for (int64_t r = 0; r < table.size(0); ++r) rows[r] = rounding_of(x + r * table.size(1), table.size(1));
    return rows;
  }

  const at::Tensor users_;
  const Pool& pool_;
  const Lists mask_, targets_;
  const int64_t k_;
  const Output out_;
  std::vector<Proposing> passes_;
  int64_t piece_;  // users of a piece of work
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> rank(const at::Tensor& users, const at::Tensor& items,
                                                    const at::Tensor& mask_ptr, const at::Tensor& mask_items,
                                                    const at::Tensor& target_ptr, const at::Tensor& target_items,
                                                    const std::optional<at::Tensor>& candidates, int64_t k,
                                                    c10::string_view precision) {
  check_rank_tables(users, items, kOp);
  const bool wide = users.scalar_type() == at::kDouble;
  const bool rounded = proposes(precision, users.scalar_type(), users.size(1), cpu_has_bfloat16_units(), kOp);
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
  const int64_t nan = wide ? Ranking<double>(left, pool, mask, targets, k, out, false).run()
                           : Ranking<float>(left, pool, mask, targets, k, out, rounded).run();
  TORCH_CHECK_VALUE(nan < 0, kOp, ": the scores of user row ", nan,
                    " hold NaN; look for NaN or infinity in the user and item tables");
  return {top, scores, hits};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("rank", rank); }

}  // namespace mmfast
