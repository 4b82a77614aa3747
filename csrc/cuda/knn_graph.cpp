// Binds knn_graph and knn_update: lists of the most similar rows, filled tile by tile. Products of tiles only rule
// pairs out, so every `precision` has the same result.
#include "knn_graph.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <limits>
#include <tuple>

#include "../search_checks.h"
#include "bind.h"
#include "similarity_tiles.h"
#include "topk.h"

namespace mmfast {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor>;

Result new_lists(const at::Tensor& features, int64_t k) {
  const auto real = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {at::full({features.size(0), k}, -1, features.options().dtype(at::kInt)),
          at::full({features.size(0), k}, -std::numeric_limits<double>::infinity(), features.options().dtype(real))};
}

// Offers the pairs with a row from first_new on to the lists [I, k]; slot 0 is the row itself where it is included.
template <typename T>
void fill(SimilarityTiles<T>& tiles, const Result& result, bool include_self, cudaStream_t stream) {
  const auto& [ids, similarities] = result;
  const int64_t k = ids.size(1), others = k - include_self;
  int32_t* id = ids.mutable_data_ptr<int32_t>();
  T* similarity = similarities.mutable_data_ptr<T>();
  const int64_t bytes = others > 0 ? topk_work_bytes<T>(tiles.most_rows(), others) : 0;
  const at::Tensor work = at::empty({bytes}, ids.options().dtype(at::kByte));
  tiles.run([&](const SimilarityTile<T>& tile) {
    const int64_t first = tile.row * k;
    if (tile.row == tile.column) {
      check(knn_take_self(tile.scores, tile.rows, tile.row, tile.deciding, include_self ? id + first : nullptr,
                          similarity + first, k, stream));
    }
    if (others == 0) return;
    const ScoreTile<T> scores{tile.scores, tile.rows, tile.columns, tile.column, tile.deciding};
    const TopLists<T> lists{similarity + first + include_self, id + first + include_self, others, k};
    check(topk_merge(scores, lists, nullptr, work.mutable_data_ptr(), stream));
  });
}

Result knn_graph(const at::Tensor& features, int64_t k, bool include_self, c10::string_view metric, int64_t block_bytes,
                 c10::string_view precision) {
  constexpr const char* op = "knn_graph";
  const DeviceScope scope(features);
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_k(k, features.size(0), include_self, op);
  const bool rounded = proposes(precision, features.scalar_type(), features.size(1), true, op);
  const Result result = new_lists(features, k);
  const auto search = [&]<typename T>(T) {
    SimilarityTiles<T> tiles(op, features, cosine, block_bytes, 0, rounded, scope.stream());
    fill(tiles, result, include_self, scope.stream());
  };
  features.scalar_type() == at::kDouble ? search(double{}) : search(float{});
  return result;
}

void check_known(const at::Tensor& neighbours, bool include_self) {
  const at::Tensor known = neighbours.cpu().contiguous();
  check_ids(known.clamp_min(0), known.size(0), "knn_update", "neighbours");
  const int32_t* ids = known.const_data_ptr<int32_t>();
  for (int64_t row = 0; row < known.size(0); ++row, ids += known.size(1)) {
    const bool holds_self = std::find(ids, ids + known.size(1), row) != ids + known.size(1);
    TORCH_CHECK_VALUE(holds_self == include_self, "knn_update: row ", row, " of neighbours ",
                      holds_self ? "holds" : "does not hold", " the row itself; set include_self to what made them");
  }
}

Result knn_update(const at::Tensor& features, const at::Tensor& neighbours, const at::Tensor& similarities,
                  bool include_self, c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_update";
  const DeviceScope scope(features);
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_known_lists(features, neighbours, similarities, include_self, op);
  const int64_t old = neighbours.size(0), k = neighbours.size(1);
  const Result result = new_lists(features, k);
  check_known(neighbours, include_self);
  std::get<0>(result).narrow(0, 0, old).copy_(neighbours);
  std::get<1>(result).narrow(0, 0, old).copy_(similarities);
  const auto search = [&]<typename T>(T) {
    SimilarityTiles<T> tiles(op, features, cosine, block_bytes, old, false, scope.stream());
    fill(tiles, result, include_self, scope.stream());
  };
  features.scalar_type() == at::kDouble ? search(double{}) : search(float{});
  return result;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("knn_graph", &knn_graph);
  m.impl("knn_update", &knn_update);
}

}  // namespace mmfast
