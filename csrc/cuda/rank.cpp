// Binds rank: blocks of scores by products, train items hidden, the best kept, hits looked up. Products only rule pairs
// out, so every `precision` has the same result.
#include "rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>

#include "../cpu/proposals.h"
#include "../search_checks.h"
#include "bind.h"
#include "knn_graph.h"
#include "matrix_products.h"
#include "topk.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "rank";
constexpr int64_t kScoreBytes = 64 << 20;   // of a block of scores
constexpr int64_t kMostColumns = 16 << 10;  // items scored at a time, so that a block has rows enough to fill a device
constexpr double kLongest = 1e37;           // of float32 rows and of their products, or a sum might overflow on its way

// The lists of one argument, checked on the device; see check_on_device of bind.h.
struct DeviceLists {
  DeviceLists(const at::Tensor& ptr, const at::Tensor& items, const at::Tensor& users, int64_t num_items,
              const char* ptr_name, const char* name, cudaStream_t stream)
      : ptr(ptr.contiguous()), items(items.contiguous()) {
    check_device(ptr, users, kOp, ptr_name);
    check_device(items, users, kOp, name);
    check_list_types(ptr, items, users.size(0), kOp, ptr_name, name);
    const Label label = label_of(kOp, name);
    check_on_device(
        [&] { return rank_check_lists(view(), users.size(0), items.numel(), num_items, label, stream); },
        [&] { check_lists(this->ptr.cpu(), this->items.cpu(), users.size(0), num_items, kOp, ptr_name, name); });
  }

  ItemLists view() const { return {ptr.const_data_ptr<int64_t>(), items.const_data_ptr<int32_t>()}; }

  at::Tensor ptr, items;
};

// The rows that are ranked, in the type of the scores.
struct PoolTensors {
  PoolTensors(const at::Tensor& items, const std::optional<at::Tensor>& candidates, at::ScalarType real,
              cudaStream_t stream) {
    if (!candidates) {
      rows = items.to(real).contiguous();
      return;
    }
    check_dim(*candidates, 1, kOp, "candidates");
    check_dtype(*candidates, at::kInt, kOp, "candidates");
    check_device(*candidates, items, kOp, "candidates");
    ids = candidates->contiguous();
    check_device_ids(ids, items.size(0), kOp, "candidates", stream);
    const at::Tensor wide = ids.to(at::kLong);
    const auto on_host = [&] {
      const at::Tensor host = wide.cpu();
      const int64_t *begin = host.const_data_ptr<int64_t>(), *end = begin + host.numel();
      TORCH_CHECK(std::adjacent_find(begin, end, std::greater_equal<>()) == end, kOp,
                  ": candidates do not ascend; sort them and leave repeated ones out");
    };
    const auto on_device = [&] {
      return device_check_rising(wide.const_data_ptr<int64_t>(), wide.numel(), label_of(kOp, "candidates"), stream);
    };
    check_on_device(on_device, on_host);
    rows = items.index_select(0, wide).to(real);
  }

  Pool view() const { return {ids.defined() ? ids.const_data_ptr<int32_t>() : nullptr, rows.size(0)}; }

  at::Tensor ids, rows;
};

// Bounds of the lengths of rows [N, D].
template <typename T>
at::Tensor lengths_of(const at::Tensor& rows, cudaStream_t stream) {
  const at::Tensor lengths = at::empty({rows.size(0)}, rows.options());
  const at::Tensor bad = at::empty({rows.size(0)}, rows.options().dtype(at::kBool));  // long rows may take part here
  check(knn_normalise(rows.mutable_data_ptr<T>(), rows.size(0), rows.size(1), false, bad.mutable_data_ptr<bool>(),
                      lengths.mutable_data_ptr<T>(), stream));
  return lengths;
}

// Rows [N, D] and bounds of their lengths.
template <typename T>
struct Measured {
  Measured(const at::Tensor& table, cudaStream_t stream)
      : rows(table.to(c10::CppTypeToScalarType<T>::value)), lengths(lengths_of<T>(rows, stream)) {}

  double longest() const { return lengths.max().template item<double>(); }

  at::Tensor rows, lengths;
};

// How products are made and decided: of bfloat16, and rounded to float32 where float64 stands in for it.
struct Kinds {
  bool proposals, numbers;
};

// The best places of every user among the items of the pool; nan receives the users with NaN scores.
template <typename T>
void fill(const Measured<T>& all_users, const Measured<T>& all_items, const Pool& pool, Kinds rounded,
          const ItemLists& hidden, const at::Tensor& top, const at::Tensor& best, const at::Tensor& nan,
          cudaStream_t stream) {
  const at::Tensor &users = all_users.rows, &items = all_items.rows;
  const FullSums full_sums;
  const int64_t num_users = users.size(0), size = items.size(0), k = top.size(1), dim = users.size(1);
  const int64_t columns = std::min(size, kMostColumns);
  const int64_t rows = std::min<int64_t>(num_users, kScoreBytes / sizeof(T) / columns);
  const at::Tensor store = at::empty({rows * columns}, users.options());
  const at::Tensor work = at::empty({topk_work_bytes<T>(rows, k)}, users.options().dtype(at::kByte));
  const auto type = rounded.proposals ? at::kBFloat16 : users.scalar_type();
  const at::Tensor lefts = users.to(type), rights = items.to(type);
  const double error = rounded.proposals ? bfloat16_product_error(dim) : matrix_product_error<T>(dim);
  const double deciding_error = rounded.numbers ? std::numeric_limits<float>::epsilon() : 0;
  for (int64_t row = 0; row < num_users; row += rows) {
    const at::Tensor left = lefts.narrow(0, row, std::min(rows, num_users - row));
    const ItemLists lists{hidden.ptr + row, hidden.items};
    for (int64_t first = 0; first < size; first += columns) {
      const int64_t height = left.size(0), width = std::min(columns, size - first);
      at::Tensor scores = store.narrow(0, 0, height * width).view({height, width});
      multiply(left, rights.narrow(0, first, width), scores);
      T* score = scores.mutable_data_ptr<T>();
      check(rank_hide(score, height, width, first, lists, pool, stream));
      const TileRows<T> deciding{users.const_data_ptr<T>() + row * dim,
                                 items.const_data_ptr<T>() + first * dim,
                                 all_users.lengths.template const_data_ptr<T>() + row,
                                 all_items.lengths.template const_data_ptr<T>() + first,
                                 dim,
                                 static_cast<T>(error + deciding_error),
                                 rounded.numbers};
      const TopLists<T> kept{best.mutable_data_ptr<T>() + row * k, top.mutable_data_ptr<int32_t>() + row * k, k, k};
      check(topk_merge(ScoreTile<T>{score, height, width, first, deciding}, kept, nan.mutable_data_ptr<bool>() + row,
                       work.mutable_data_ptr(), stream));
    }
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rank_op(const at::Tensor& users, const at::Tensor& items,
                                                       const at::Tensor& mask_ptr, const at::Tensor& mask_items,
                                                       const at::Tensor& target_ptr, const at::Tensor& target_items,
                                                       const std::optional<at::Tensor>& candidates, int64_t k,
                                                       c10::string_view precision) {
  const DeviceScope scope(users);
  check_rank_tables(users, items, kOp);
  const bool rounded = proposes(precision, users.scalar_type(), users.size(1), true, kOp);
  const auto real = users.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor left = users.to(real).contiguous();
  const PoolTensors pool(items, candidates, real, scope.stream());
  const int64_t num_users = users.size(0), num_items = items.size(0), size = pool.rows.size(0);
  check_rank_k(k, size, candidates.has_value(), kOp);
  const DeviceLists mask(mask_ptr, mask_items, users, num_items, "mask_ptr", "mask_items", scope.stream());
  const DeviceLists targets(target_ptr, target_items, users, num_items, "target_ptr", "target_items", scope.stream());
  const at::Tensor top = at::full({num_users, k}, -1, left.options().dtype(at::kInt));
  const auto best_of = [&](at::ScalarType type) {
    return at::full({num_users, k}, -std::numeric_limits<double>::infinity(), left.options().dtype(type));
  };
  const at::Tensor hits = at::empty({num_users, k}, left.options().dtype(at::kBool));
  const at::Tensor nan = at::zeros({num_users}, hits.options());
  if (num_users == 0) return {top, best_of(real), hits};
  at::Tensor best;
  const auto run = [&]<typename T>(const Measured<T>& all_users, const Measured<T>& all_items, Kinds kinds) {
    best = best_of(all_users.rows.scalar_type());
    fill(all_users, all_items, pool.view(), kinds, mask.view(), top, best, nan, scope.stream());
  };
  const auto run_wide = [&] {
    run(Measured<double>(left, scope.stream()), Measured<double>(pool.rows, scope.stream()),
        {false, real == at::kFloat});
  };
  if (real == at::kDouble) {
    run_wide();
  } else {
    const Measured<float> all_users(left, scope.stream()), all_items(pool.rows, scope.stream());
    const double user = all_users.longest(), item = all_items.longest();
    const bool safe = user < kLongest && item < kLongest && user * item < kLongest;  // not so for NaN
    safe ? run(all_users, all_items, {rounded, false}) : run_wide();
  }
  check(rank_finish(top.mutable_data_ptr<int32_t>(), hits.mutable_data_ptr<bool>(), num_users, k, targets.view(),
                    pool.view(), scope.stream()));
  const at::Tensor bad = at::nonzero(nan);
  TORCH_CHECK_VALUE(bad.numel() == 0, kOp, ": the scores of user row ", bad[0].item<int64_t>(),
                    " hold NaN; look for NaN or infinity in the user and item tables");
  return {top, best.to(real), hits};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("rank", &rank_op); }

}  // namespace mmfast
