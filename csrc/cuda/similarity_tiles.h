// All similarities of rows by blocked products, tile by tile, each product used for its rows and, mirrored, for its
// columns.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../cpu/proposals.h"
#include "bind.h"
#include "knn_graph.h"
#include "matrix_products.h"

namespace mmfast {

// Scores [rows, columns] of the rows from `row` on with those from `column` on, and these rows.
template <typename T>
struct SimilarityTile {
  T* scores;
  int64_t rows, columns, row, column;
  TileRows<T> deciding;
};

// Products are of T, float32 without TF32, or where `rounded` of bfloat16. Every pair of rows comes of which one at
// least is `first_new` or later.
template <typename T>
class SimilarityTiles {
 public:
  SimilarityTiles(const char* op, const at::Tensor& features, bool cosine, int64_t block_bytes, int64_t first_new,
                  bool rounded, cudaStream_t stream)
      : op_(op),
        features_(features),
        options_(features.options().dtype(c10::CppTypeToScalarType<T>::value)),
        cosine_(cosine),
        first_new_(first_new),
        panel_(rows_per_panel(block_bytes)),
        rounded_(rounded),
        error_(static_cast<T>(rounded ? bfloat16_product_error(features.size(1))
                                      : matrix_product_error<T>(features.size(1)))),
        stream_(stream) {}

  int64_t most_rows() const { return panel_; }

  // Calls visit(SimilarityTile); the visitor may write to the scores. A row meets its columns in ascending order.
  template <typename Visit>
  void run(const Visit& visit) {
    const FullSums full_sums;
    const int64_t width = features_.size(1);
    bad_ = at::zeros({features_.size(0)}, features_.options().dtype(at::kBool));
    lengths_ = at::empty({features_.size(0)}, options_);
    const auto panels = bounds();
    const auto store = [&](int64_t width) { return at::empty({panel_, width}, options_); };
    const at::Tensor row_store = store(width), tile_store = store(panel_);
    const bool mirrors = panels.size() > 2;
    const at::Tensor column_store = store(mirrors ? width : 0), mirror_store = store(mirrors ? panel_ : 0);
    for (size_t a = 0; a + 1 < panels.size(); ++a) {
      const at::Tensor rows = load(panels[a], panels[a + 1], row_store);
      for (size_t b = a; b + 1 < panels.size(); ++b) {
        if (panels[b] < first_new_) continue;
        const at::Tensor columns = a == b ? rows : load(panels[b], panels[b + 1], column_store);
        at::Tensor tile = part(tile_store, rows.size(0), columns.size(0));
        const auto type = rounded_ ? at::kBFloat16 : rows.scalar_type();
        multiply(rows.to(type), columns.to(type), tile);
        const at::Tensor mirror = a == b ? tile : part(mirror_store, columns.size(0), rows.size(0));
        if (a != b) mirror.copy_(tile.t());
        visit(tile_of(tile, rows, panels[a], columns, panels[b]));
        if (a != b) visit(tile_of(mirror, columns, panels[b], rows, panels[a]));
      }
    }
    refuse_bad_rows();
  }

 private:
  static constexpr int64_t kRows = 128;  // a panel is a multiple of this

  // All rows if they and their scores fit, else panels of equal size: two of rows and two tiles of scores fit.
  int64_t rows_per_panel(int64_t block_bytes) const {
    const int64_t size = features_.size(0), width = features_.size(1), numbers = block_bytes / sizeof(T);
    if (first_new_ == 0 && size * (size + width) <= numbers) return size;
    const double w = static_cast<double>(width);
    const auto fit = static_cast<int64_t>((std::sqrt(w * w + 2.0 * static_cast<double>(numbers)) - w) / 2);
    const int64_t most = std::max(kRows, fit / kRows * kRows), count = (size + most - 1) / most;
    return std::min(size, (size + count * kRows - 1) / (count * kRows) * kRows);
  }

  // Panels of the old rows, then of the new ones.
  std::vector<int64_t> bounds() const {
    std::vector<int64_t> result;
    for (int64_t begin = 0; begin < first_new_; begin += panel_) result.push_back(begin);
    for (int64_t begin = first_new_; begin < features_.size(0); begin += panel_) result.push_back(begin);
    result.push_back(features_.size(0));
    return result;
  }

  at::Tensor load(int64_t begin, int64_t end, const at::Tensor& store) const {
    const at::Tensor rows = store.narrow(0, 0, end - begin);
    rows.copy_(features_.narrow(0, begin, end - begin));
    check(knn_normalise(rows.mutable_data_ptr<T>(), end - begin, store.size(1), cosine_,
                        bad_.mutable_data_ptr<bool>() + begin, lengths_.mutable_data_ptr<T>() + begin, stream_));
    return rows;
  }

  SimilarityTile<T> tile_of(const at::Tensor& scores, const at::Tensor& rows, int64_t row, const at::Tensor& columns,
                            int64_t column) const {
    const T* lengths = lengths_.const_data_ptr<T>();
    const TileRows<T> deciding{
        rows.const_data_ptr<T>(), columns.const_data_ptr<T>(), lengths + row, lengths + column, rows.size(1), error_};
    return {scores.mutable_data_ptr<T>(), rows.size(0), columns.size(0), row, column, deciding};
  }

  static at::Tensor part(const at::Tensor& store, int64_t rows, int64_t columns) {
    return store.flatten().narrow(0, 0, rows * columns).view({rows, columns});
  }

  void refuse_bad_rows() const {
    const at::Tensor rows = at::nonzero(bad_);
    TORCH_CHECK_VALUE(rows.numel() == 0, op_, ": row ", rows[0].item<int64_t>(),
                      " of features holds NaN, infinity or numbers too large to multiply; repair that row");
  }

  const char* const op_;
  const at::Tensor features_;
  const at::TensorOptions options_;
  const bool cosine_;
  const int64_t first_new_, panel_;
  const bool rounded_;
  const T error_;
  const cudaStream_t stream_;
  at::Tensor bad_, lengths_;
};

}  // namespace mmfast
