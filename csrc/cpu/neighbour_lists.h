// The most similar rows of every row so far.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "decisions.h"
#include "pairs.h"
#include "topk.h"

namespace mmfast {

// Slot 0 is the row itself where it is included. A list holds numbers that decide and nothing else, so what is in it at
// the end depends on no order; a product of at::mm only tells which of them need to be known.
template <typename T>
class NeighbourLists {
 public:
  NeighbourLists(const FeatureRows<T>& features, int32_t* ids, T* similarities, int64_t width, bool include_self)
      : decisions_(features),
        ids_(ids),
        similarities_(similarities),
        num_rows_(features.size()),
        width_(width),
        first_(include_self),
        limit_(num_rows_) {
    clear();
  }

  void clear() {
    std::fill(ids_, ids_ + num_rows_ * width_, std::numeric_limits<int32_t>::max());
    std::fill(similarities_, similarities_ + num_rows_ * width_, -std::numeric_limits<T>::infinity());
    std::fill(limit_.begin(), limit_.end(), (width_ > first_ ? -1 : 1) * std::numeric_limits<T>::infinity());
  }

  T limit(int64_t row) const { return limit_[row]; }
  const T* limits() const { return limit_.data(); }
  const Decisions<T>& decisions() const { return decisions_; }

  MMFAST_INLINE void offer(int64_t row, T similarity, int64_t other) {
    if (!(similarity >= limit_[row])) return;
    auto heap = list(row);
    if (!better(similarity, static_cast<int32_t>(other), heap.score[0], heap.id[0])) return;
    heap.replace_root(similarity, static_cast<int32_t>(other));
    limit_[row] = heap.score[0];
  }

  // A row that is NaN has similarity 0 with itself.
  void keep_self(int64_t row, T similarity) {
    if (first_ == 0) return;
    ids_[row * width_] = static_cast<int32_t>(row);
    similarities_[row * width_] = std::isnan(similarity) ? 0 : similarity;
  }

  void self(int64_t row, const T* x) { keep_self(row, decisions_.decide(x, x)); }

  // Offers what the strip may hold to both sides, or to its row alone.
  void scan(const Strip<T>& strip);
  void scan_row(const Strip<T>& strip);

  // Puts every list in order, -1 at the end of those that are short.
  void finish() {
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
    for (int64_t row = 0; row < num_rows_; ++row) {
      list(row).sort();
      int32_t* ids = ids_ + row * width_;
      std::replace(ids, ids + width_, std::numeric_limits<int32_t>::max(), -1);
    }
  }

 private:
  MMFAST_INLINE WorstFirst<T> list(int64_t row) {
    return {similarities_ + row * width_ + first_, ids_ + row * width_ + first_, width_ - first_};
  }

  const Decisions<T> decisions_;
  int32_t* const ids_;
  T* const similarities_;
  const int64_t num_rows_, width_, first_;
  std::vector<T> limit_;  // the worst similarity that a row keeps
};

}  // namespace mmfast
