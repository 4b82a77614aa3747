// Exact k nearest neighbours: tiles of the similarity matrix, each used for its rows and, mirrored, for its columns.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "../check.h"
#include "topk.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "knn_graph";
constexpr int64_t kTile = 384;   // rows and columns of a tile
constexpr int64_t kStrip = 128;  // rows of a strip of a tile on the diagonal
constexpr int64_t kStride = 32;  // columns looked at together

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether any of kStride scores can enter the list of the row or that of its column.
template <typename T>
MMFAST_INLINE bool any_enters(const T* scores, T row_limit, const T* column_limit) {
  int enters = 0;
  for (int64_t j = 0; j < kStride; ++j) enters |= (scores[j] >= row_limit) | (scores[j] >= column_limit[j]);
  return enters != 0;
}

// The lists of all rows. limit[i] is the worst similarity that row i keeps.
template <typename T>
struct Neighbours {
  int32_t* ids;                    // [num_rows, width]
  T* similarities;                 // [num_rows, width]
  int64_t num_rows, width, first;  // the lists start at slot `first`: slot 0 is the row itself where it is included
  std::vector<T> limit;

  Neighbours(int32_t* ids, T* similarities, int64_t num_rows, int64_t width, bool include_self)
      : ids(ids),
        similarities(similarities),
        num_rows(num_rows),
        width(width),
        first(include_self),
        limit(num_rows, (width > first ? -1 : 1) * std::numeric_limits<T>::infinity()) {
    std::fill(ids, ids + num_rows * width, std::numeric_limits<int32_t>::max());
    std::fill(similarities, similarities + num_rows * width, -std::numeric_limits<T>::infinity());
  }

  MMFAST_INLINE WorstFirst<T> list(int64_t row) {
    return {similarities + row * width + first, ids + row * width + first, width - first};
  }

  MMFAST_INLINE void offer(int64_t row, T score, int64_t other) {
    if (!(score >= limit[row])) return;
    auto heap = list(row);
    if (!better(score, static_cast<int32_t>(other), heap.score[0], heap.id[0])) return;
    heap.replace_root(score, static_cast<int32_t>(other));
    limit[row] = heap.score[0];
  }

  // Offers the scores of row `row` against columns begin .. begin + count to both sides.
  MMFAST_INLINE void scan(const T* scores, int64_t row, int64_t begin, int64_t count) {
    for (int64_t j = 0; j < count; j += kStride) {
      const int64_t end = std::min(count, j + kStride);
      if (end - j == kStride && !any_enters(scores + j, limit[row], limit.data() + begin + j)) continue;
      for (int64_t c = j; c < end; ++c) {
        offer(row, scores[c], begin + c);
        offer(begin + c, scores[c], row);
      }
    }
  }
};

MMFAST_CLONES void scan_row(Neighbours<float>& lists, const float* scores, int64_t row, int64_t begin, int64_t count) {
  lists.scan(scores, row, begin, count);
}

MMFAST_CLONES void scan_row(Neighbours<double>& lists, const double* scores, int64_t row, int64_t begin,
                            int64_t count) {
  lists.scan(scores, row, begin, count);
}

template <typename T>
double squared_norm(const T* x, int64_t size) {
  constexpr int kLanes = 8;
  double sum[kLanes] = {};
  int64_t f = 0;
  for (; f + kLanes <= size; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * x[f + lane];
  }
  for (; f < size; ++f) sum[0] += static_cast<double>(x[f]) * x[f];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Some rows of the features in the type of the products, scaled to length one for cosine.
template <typename T>
struct Panel {
  at::Tensor store;
  int64_t begin = 0, count = 0;

  void load(const at::Tensor& features, int64_t from, int64_t to, bool cosine) {
    begin = from;
    count = to - from;
    store.narrow(0, 0, count).copy_(features.narrow(0, from, count));
    T* rows = store.mutable_data_ptr<T>();
    const int64_t width = store.size(1);
    int64_t bad = count;
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads()) reduction(min : bad)
    for (int64_t r = 0; r < count; ++r) {
      T* row = rows + r * width;
      const double square = squared_norm(row, width);
      // A finite square in T also bounds every inner product, so no product can overflow.
      if (!std::isfinite(cosine ? square : static_cast<double>(static_cast<T>(square)))) bad = std::min(bad, r);
      if (!cosine) continue;
      const double scale = 1.0 / std::max(std::sqrt(square), 1e-12);
      for (int64_t f = 0; f < width; ++f) row[f] = static_cast<T>(row[f] * scale);
    }
    TORCH_CHECK_VALUE(bad == count, kOp, ": row ", from + bad,
                      " of features holds NaN, infinity or numbers too large to multiply; repair that row");
  }

  int64_t tiles() const { return divide_up(count, kTile); }
  at::Tensor tile(int64_t t) const { return store.narrow(0, t * kTile, std::min(kTile, count - t * kTile)); }
};

template <typename T>
class Search {
 public:
  Search(const at::Tensor& features, Neighbours<T> lists, bool cosine)
      : features_(features), lists_(std::move(lists)), cosine_(cosine), locks_(divide_up(lists_.num_rows, kTile)) {}

  void run(int64_t block_bytes) {
    const int64_t size = lists_.num_rows, width = features_.size(1);
    const int64_t panel_rows = rows_per_panel(size, block_bytes / std::max<int64_t>(1, width * sizeof(T)));
    const auto options = features_.options().dtype(c10::CppTypeToScalarType<T>::value);
    Panel<T> rows{at::empty({panel_rows, width}, options)}, columns;
    if (panel_rows < size) columns.store = at::empty({panel_rows, width}, options);
    for (int64_t a = 0; a < size; a += panel_rows) {
      rows.load(features_, a, std::min(size, a + panel_rows), cosine_);
      match(rows, rows);
      for (int64_t b = a + panel_rows; b < size; b += panel_rows) {
        columns.load(features_, b, std::min(size, b + panel_rows), cosine_);
        match(rows, columns);
      }
    }
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
    for (int64_t row = 0; row < size; ++row) lists_.list(row).sort();
  }

 private:
  // All rows if they fit, else panels of equal size of which two fit; whole tiles.
  static int64_t rows_per_panel(int64_t size, int64_t rows_that_fit) {
    if (size <= rows_that_fit) return size;
    const int64_t most = std::max(kTile, rows_that_fit / 2 / kTile * kTile);
    return divide_up(divide_up(size, divide_up(size, most)), kTile) * kTile;
  }

  void match(const Panel<T>& rows, const Panel<T>& columns) {
    const bool diagonal = rows.begin == columns.begin;
    const int64_t across = columns.tiles();
    Pieces pieces(rows.tiles() * across);
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto scores = at::empty({kTile * kTile}, rows.store.options());
      for (int64_t piece; pieces.take(piece);) {
        const int64_t a = piece / across, b = piece % across;
        if (!diagonal || a <= b) match_tile(rows, a, columns, b, scores);
      }
    });
  }

  // On the diagonal only the pairs right of it are wanted, so strips of rows leave out most of what lies left.
  void match_tile(const Panel<T>& rows, int64_t a, const Panel<T>& columns, int64_t b, const at::Tensor& scores) {
    const auto left = rows.tile(a), right = columns.tile(b);
    const int64_t row = rows.begin + a * kTile, column = columns.begin + b * kTile;
    const bool diagonal = row == column;
    const int64_t step = diagonal ? kStrip : kTile;
    for (int64_t top = 0; top < left.size(0); top += step) {
      const int64_t height = std::min(step, left.size(0) - top), from = diagonal ? top : 0;
      const int64_t width = right.size(0) - from;
      auto strip = scores.narrow(0, 0, height * width).view({height, width});
      at::mm_out(strip, left.narrow(0, top, height), right.narrow(0, from, width).t());
      enter(strip, row + top, column + from);
    }
  }

  // A strip changes the lists of its rows and of its columns: the lower lock first, so that nobody waits in a ring.
  void enter(const at::Tensor& strip, int64_t row, int64_t column) {
    const T* score = strip.const_data_ptr<T>();
    const int64_t height = strip.size(0), width = strip.size(1);
    const bool diagonal = row == column;
    const std::lock_guard hold_rows(locks_[row / kTile]);
    std::unique_lock<std::mutex> hold_columns;
    if (!diagonal) hold_columns = std::unique_lock(locks_[column / kTile]);
    for (int64_t i = 0; i < height; ++i) {
      const int64_t skip = diagonal ? i + 1 : 0;  // a pair once, and no row with itself
      if (diagonal && lists_.first) put_self(row + i, score[i * width + i]);
      scan_row(lists_, score + i * width + skip, row + i, column + skip, width - skip);
    }
  }

  void put_self(int64_t row, T similarity) {
    lists_.ids[row * lists_.width] = static_cast<int32_t>(row);
    lists_.similarities[row * lists_.width] = similarity;
  }

  const at::Tensor& features_;
  Neighbours<T> lists_;
  const bool cosine_;
  std::vector<std::mutex> locks_;
};

std::tuple<at::Tensor, at::Tensor> knn_graph(const at::Tensor& features, int64_t k, bool include_self,
                                             c10::string_view metric, int64_t block_bytes) {
  check_dim(features, 2, kOp, "features");
  const auto type = features.scalar_type();
  TORCH_CHECK(type == at::kHalf || type == at::kFloat || type == at::kDouble, kOp, ": features is ", type,
              "; wanted Half, Float or Double");
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "inner", kOp, ": metric='", metric,
                    "' is unknown; choose cosine or inner");
  TORCH_CHECK_VALUE(block_bytes > 0, kOp, ": block_bytes=", block_bytes, "; choose a number above zero");
  const int64_t size = features.size(0), most = include_self ? size : std::max<int64_t>(0, size - 1);
  TORCH_CHECK_VALUE(k >= 1 && k <= most, kOp, ": k=", k, " but there are only ", size, " items; choose k <= ", most);
  const auto real = type == at::kDouble ? at::kDouble : at::kFloat;
  auto ids = at::empty({size, k}, features.options().dtype(at::kInt));
  auto similarities = at::empty({size, k}, features.options().dtype(real));
  const auto search = [&]<typename T>(T) {
    Neighbours<T> lists(ids.mutable_data_ptr<int32_t>(), similarities.mutable_data_ptr<T>(), size, k, include_self);
    Search<T>(features, std::move(lists), metric == "cosine").run(block_bytes);
  };
  real == at::kDouble ? search(double{}) : search(float{});
  return {ids, similarities};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("knn_graph", knn_graph); }

}  // namespace mmfast
