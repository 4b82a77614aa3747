// Every pair of rows once: tiles of the similarity matrix, each shown for its rows and, mirrored, for its columns.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "feature_rows.h"
#include "workers.h"

namespace mmfast {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The products of at::mm of one row, x, with the rows begin .. begin + count, which lie at `others`. Both are null
// where the products are of rows rounded to bfloat16.
template <typename T>
struct Strip {
  const T* scores;
  int64_t row, begin, count;
  const T* x;
  const T* others;
};

// A Sink takes what it is shown: self(row, x) for a row alone, scan(strip) for a row with others. While it is shown
// rows and columns nobody else is shown any of them. Products are of T, or of rows rounded to bfloat16 (`reduced`);
// scores are T.
template <typename T, typename Sink>
class Pairs {
 public:
  Pairs(FeatureRows<T>& features, Sink& sink, int64_t first_new = 0, bool reduced = false)
      : features_(features),
        sink_(sink),
        reduced_(reduced),
        first_new_(first_new),
        tile_(reduced ? 768 : 384),
        locks_(divide_up(first_new, tile_) + divide_up(features.size() - first_new, tile_)) {}

  // Shows every pair of which one row at least is first_new or a later one.
  void run(int64_t block_bytes) {
    const int64_t row_bytes = std::max<int64_t>(1, features_.width() * (reduced_ ? 2 : sizeof(T)));
    const int64_t size = features_.size(), step = rows_per_panel(block_bytes / row_bytes);
    Panel rows{new_panel(std::min(step, size))}, columns;
    if (step < size || first_new_ > 0) columns.store = new_panel(std::min(step, size));
    for (int64_t a = 0; a < first_new_; a += step) {
      load(rows, a, std::min(first_new_, a + step));
      match_later(rows, columns, first_new_, step);
    }
    for (int64_t a = first_new_; a < size; a += step) {
      load(rows, a, std::min(size, a + step));
      match(rows, rows);
      match_later(rows, columns, a + step, step);
    }
  }

 private:
  struct Panel {
    at::Tensor store;
    int64_t begin = 0, count = 0;

    at::Tensor tile(int64_t begin, int64_t most) const { return store.narrow(0, begin, std::min(most, count - begin)); }
  };

  // All rows if they fit, else panels of equal size of which two fit; whole tiles.
  int64_t rows_per_panel(int64_t rows_that_fit) const {
    const int64_t size = features_.size();
    if (first_new_ == 0 && size <= rows_that_fit) return std::max<int64_t>(1, size);
    const int64_t most = std::max(tile_, rows_that_fit / 2 / tile_ * tile_);
    return divide_up(divide_up(size, divide_up(size, most)), tile_) * tile_;
  }

  at::Tensor new_panel(int64_t rows) const {
    return reduced_ ? features_.empty(rows, at::kBFloat16) : features_.empty(rows);
  }

  void load(Panel& panel, int64_t from, int64_t to) {
    panel.begin = from;
    panel.count = to - from;
    if (!reduced_) return features_.load(from, panel.store.narrow(0, 0, panel.count));
    constexpr int64_t kPart = 128;  // rows that are in T for a moment
    const auto part = features_.empty(std::min(kPart, to - from));
    for (int64_t begin = from; begin < to; begin += kPart) {
      const auto rows = part.narrow(0, 0, std::min(kPart, to - begin));
      features_.load(begin, rows);
      panel.store.narrow(0, begin - from, rows.size(0)).copy_(rows);
    }
  }

  void match_later(const Panel& rows, Panel& columns, int64_t from, int64_t step) {
    for (int64_t b = from; b < features_.size(); b += step) {
      load(columns, b, std::min(features_.size(), b + step));
      match(rows, columns);
    }
  }

  void match(const Panel& rows, const Panel& columns) {
    const bool diagonal = rows.begin == columns.begin;
    const int64_t across = divide_up(columns.count, tile_);
    Pieces pieces(divide_up(rows.count, tile_) * across);
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto scores = at::empty({tile_ * tile_}, features_.empty(0).options());
      const auto products = reduced_ ? at::empty({tile_ * tile_}, rows.store.options()) : scores;
      for (int64_t piece; pieces.take(piece);) {
        const int64_t a = piece / across, b = piece % across;
        if (!diagonal || a <= b) match_tile(rows, a * tile_, columns, b * tile_, products, scores);
      }
    });
  }

  // On the diagonal only the pairs right of it are wanted, so strips of rows leave out most of what lies left.
  void match_tile(const Panel& rows, int64_t a, const Panel& columns, int64_t b, const at::Tensor& products,
                  const at::Tensor& scores) {
    const auto left = rows.tile(a, tile_), right = columns.tile(b, tile_);
    const int64_t row = rows.begin + a, column = columns.begin + b;
    const bool diagonal = row == column;
    const int64_t step = diagonal ? tile_ / 3 : tile_;
    for (int64_t top = 0; top < left.size(0); top += step) {
      const int64_t height = std::min(step, left.size(0) - top), from = diagonal ? top : 0;
      const int64_t width = right.size(0) - from;
      auto product = products.narrow(0, 0, height * width).view({height, width});
      at::mm_out(product, left.narrow(0, top, height), right.narrow(0, from, width).t());
      const auto strip = scores.narrow(0, 0, height * width);
      if (reduced_) strip.copy_(product.view(-1));
      const T* x = reduced_ ? nullptr : left.template const_data_ptr<T>() + top * features_.width();
      const T* others = reduced_ ? nullptr : right.template const_data_ptr<T>() + from * features_.width();
      show({strip.template const_data_ptr<T>(), row + top, column + from, width, x, others}, height, diagonal);
    }
  }

  // Rows and columns of a strip are both held: the lower lock first, so that nobody waits in a ring.
  void show(const Strip<T>& first, int64_t height, bool diagonal) {
    const std::lock_guard hold_rows(lock_of(first.row));
    std::unique_lock<std::mutex> hold_columns;
    if (!diagonal) hold_columns = std::unique_lock(lock_of(first.begin));
    const int64_t width = reduced_ ? 0 : features_.width();
    for (int64_t i = 0; i < height; ++i) {
      const int64_t skip = diagonal ? i + 1 : 0;  // a pair once
      const T* x = first.x + i * width;
      if (diagonal) sink_.self(first.row + i, x);
      sink_.scan(Strip<T>{first.scores + i * first.count + skip, first.row + i, first.begin + skip, first.count - skip,
                          x, first.others + skip * width});
    }
  }

  std::mutex& lock_of(int64_t row) {
    return row < first_new_ ? locks_[row / tile_] : locks_[divide_up(first_new_, tile_) + (row - first_new_) / tile_];
  }

  FeatureRows<T>& features_;
  Sink& sink_;
  const bool reduced_;
  const int64_t first_new_, tile_;
  std::vector<std::mutex> locks_;
};

}  // namespace mmfast
