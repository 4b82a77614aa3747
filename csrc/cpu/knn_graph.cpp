// Exact k nearest neighbours without the square matrix, and their update for new rows.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../check.h"
#include "knn_proposals.h"
#include "neighbour_lists.h"
#include "pairs.h"
#include "proposals.h"

namespace mmfast {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor>;

Result new_lists(const at::Tensor& features, int64_t k) {
  const auto real = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {at::empty({features.size(0), k}, features.options().dtype(at::kInt)),
          at::empty({features.size(0), k}, features.options().dtype(real))};
}

Result knn_graph(const at::Tensor& features, int64_t k, bool include_self, c10::string_view metric, int64_t block_bytes,
                 c10::string_view precision) {
  constexpr const char* op = "knn_graph";
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_k(k, features.size(0), include_self, op);
  const bool proposed = proposes(precision, features.scalar_type(), features.size(1), cpu_has_bfloat16_units(), op);
  const auto result = new_lists(features, k);
  const auto search = [&]<typename T>(T) {
    FeatureRows<T> rows(features, cosine, op);
    NeighbourLists<T> lists(rows, std::get<0>(result).template mutable_data_ptr<int32_t>(),
                            std::get<1>(result).template mutable_data_ptr<T>(), k, include_self);
    if constexpr (std::is_same_v<T, float>) {
      if (proposed && k > include_self) fill_by_proposals(rows, lists, k - include_self, block_bytes);
    }
    if (!proposed || k <= include_self) Pairs<T, NeighbourLists<T>>(rows, lists).run(block_bytes);
    lists.finish();
  };
  features.scalar_type() == at::kDouble ? search(double{}) : search(float{});
  return result;
}

template <typename T>
void offer_known(NeighbourLists<T>& lists, const at::Tensor& neighbours, const at::Tensor& similarities,
                 bool include_self) {
  const int64_t k = neighbours.size(1);
  for (int64_t row = 0; row < neighbours.size(0); ++row) {
    const int32_t* ids = neighbours.const_data_ptr<int32_t>() + row * k;
    const T* similarity = similarities.const_data_ptr<T>() + row * k;
    bool holds_self = false;
    for (int64_t slot = 0; slot < k; ++slot) {
      holds_self |= ids[slot] == row;
      if (ids[slot] == row) lists.keep_self(row, similarity[slot]);
      if (ids[slot] >= 0 && ids[slot] != row) lists.offer(row, similarity[slot], ids[slot]);
    }
    TORCH_CHECK_VALUE(holds_self == include_self, "knn_update: row ", row, " of neighbours ",
                      holds_self ? "holds" : "does not hold", " the row itself; set include_self to what made them");
  }
}

Result knn_update(const at::Tensor& features, const at::Tensor& neighbours, const at::Tensor& similarities,
                  bool include_self, c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_update";
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_known_lists(features, neighbours, similarities, include_self, op);
  const int64_t old = neighbours.size(0), k = neighbours.size(1);
  const auto result = new_lists(features, k);
  const auto known = neighbours.contiguous(), numbers = similarities.contiguous();
  check_ids(known.clamp_min(0), old, op, "neighbours");
  const auto search = [&]<typename T>(T) {
    FeatureRows<T> rows(features, cosine, op);
    NeighbourLists<T> lists(rows, std::get<0>(result).template mutable_data_ptr<int32_t>(),
                            std::get<1>(result).template mutable_data_ptr<T>(), k, include_self);
    offer_known(lists, known, numbers, include_self);
    Pairs<T, NeighbourLists<T>>(rows, lists, old).run(block_bytes);
    lists.finish();
  };
  features.scalar_type() == at::kDouble ? search(double{}) : search(float{});
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("knn_graph", knn_graph);
  m.impl("knn_update", knn_update);
}

}  // namespace mmfast
