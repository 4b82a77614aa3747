// Binds knn_count and knn_above: all pairs of rows above a threshold, counted, and then written and put in order.
#include <ATen/ops/empty.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <tuple>

#include "../search_checks.h"
#include "bind.h"
#include "knn_graph.h"
#include "similarity_tiles.h"

namespace mmfast {
namespace {

template <typename T, typename Visit>
void for_others(SimilarityTiles<T>& tiles, cudaStream_t stream, const Visit& visit) {
  tiles.run([&](const SimilarityTile<T>& tile) {
    if (tile.row == tile.column) {
      check(knn_take_self<T>(tile.scores, tile.rows, tile.row, tile.deciding, nullptr, nullptr, 0, stream));
    }
    check(visit(tile));
  });
}

at::Tensor knn_count(const at::Tensor& features, double eta, c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_count";
  const DeviceScope scope(features);
  const bool cosine = check_features(features, metric, block_bytes, op);
  const at::Tensor counts = at::zeros({features.size(0)}, features.options().dtype(at::kLong));
  const auto run = [&]<typename T>(T) {
    SimilarityTiles<T> tiles(op, features, cosine, block_bytes, 0, false, scope.stream());
    for_others(tiles, scope.stream(), [&](const SimilarityTile<T>& tile) {
      return knn_count_above(tile.scores, tile.rows, tile.columns, tile.deciding, eta,
                             counts.mutable_data_ptr<int64_t>() + tile.row, scope.stream());
    });
  };
  features.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return counts;
}

// Returns the number of edges.
int64_t check_ptr(const at::Tensor& ptr) {
  const at::Tensor host = ptr.cpu().contiguous();
  const int64_t *begin = host.const_data_ptr<int64_t>(), *last = begin + host.numel() - 1;
  TORCH_CHECK_VALUE(*begin == 0 && std::is_sorted(begin, last + 1), "knn_above: ptr runs from ", *begin, " to ", *last,
                    "; wanted ascending offsets from 0");
  return *last;
}

void check_filled(const at::Tensor& ptr, const at::Tensor& next) {
  const at::Tensor wrong = at::nonzero(next.ne(ptr.narrow(0, 1, next.numel())));
  if (wrong.numel() == 0) return;
  const int64_t row = wrong[0].item<int64_t>(), begin = ptr[row].item<int64_t>(), end = ptr[row + 1].item<int64_t>();
  TORCH_CHECK_VALUE(false, "knn_above: row ", row, " has ", next[row].item<int64_t>() - begin,
                    " rows above eta but ptr gives it ", end - begin,
                    " slots; make ptr from knn_count of the same features, eta, metric and block_bytes");
}

// Every row's entries by descending similarity; entries of equal similarity keep their order, which is that of the ids.
std::tuple<at::Tensor, at::Tensor> ordered(const at::Tensor& ptr, const at::Tensor& ids,
                                           const at::Tensor& similarities) {
  const at::Tensor by_score = std::get<1>(at::sort(similarities, std::optional(true), 0, /*descending=*/true));
  const at::Tensor row = at::searchsorted(ptr.narrow(0, 1, ptr.numel() - 1).contiguous(), by_score,
                                          /*out_int32=*/false, /*right=*/true);
  const at::Tensor order = by_score.index_select(0, std::get<1>(at::sort(row, std::optional(true), 0)));
  return {ids.index_select(0, order), similarities.index_select(0, order)};
}

std::tuple<at::Tensor, at::Tensor> knn_above(const at::Tensor& features, double eta, const at::Tensor& ptr,
                                             c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_above";
  const DeviceScope scope(features);
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_dim(ptr, 1, op, "ptr");
  check_dtype(ptr, at::kLong, op, "ptr");
  check_size(ptr, 0, features.size(0) + 1, op, "ptr");
  check_device(ptr, features, op, "ptr");
  const int64_t num_edges = check_ptr(ptr);
  const at::Tensor offsets = ptr.contiguous(), next = offsets.narrow(0, 0, features.size(0)).clone();
  const auto real = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor ids = at::empty({num_edges}, features.options().dtype(at::kInt));
  const at::Tensor similarities = at::empty({num_edges}, features.options().dtype(real));
  const auto run = [&]<typename T>(T) {
    SimilarityTiles<T> tiles(op, features, cosine, block_bytes, 0, false, scope.stream());
    for_others(tiles, scope.stream(), [&](const SimilarityTile<T>& tile) {
      return knn_write_above(tile.scores, tile.rows, tile.columns, tile.column, tile.deciding, eta,
                             next.mutable_data_ptr<int64_t>() + tile.row,
                             offsets.const_data_ptr<int64_t>() + tile.row + 1, ids.mutable_data_ptr<int32_t>(),
                             similarities.mutable_data_ptr<T>(), scope.stream());
    });
  };
  real == at::kDouble ? run(double{}) : run(float{});
  check_filled(offsets, next);
  return ordered(offsets, ids, similarities);
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("knn_count", &knn_count);
  m.impl("knn_above", &knn_above);
}

}  // namespace mmfast
