// The most similar rows of every row so far.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "topk.h"

namespace mmfast {

// Slot 0 is the row itself where it is included.
template <typename T>
class NeighbourLists {
 public:
  NeighbourLists(int32_t* ids, T* similarities, int64_t num_rows, int64_t width, bool include_self)
      : ids_(ids),
        similarities_(similarities),
        num_rows_(num_rows),
        width_(width),
        first_(include_self),
        limit_(num_rows) {
    clear();
  }

  void clear() {
    std::fill(ids_, ids_ + num_rows_ * width_, std::numeric_limits<int32_t>::max());
    std::fill(similarities_, similarities_ + num_rows_ * width_, -std::numeric_limits<T>::infinity());
    std::fill(limit_.begin(), limit_.end(), (width_ > first_ ? -1 : 1) * std::numeric_limits<T>::infinity());
  }

  T limit(int64_t row) const { return limit_[row]; }
  const T* limits() const { return limit_.data(); }

  MMFAST_INLINE void offer(int64_t row, T score, int64_t other) {
    if (!(score >= limit_[row])) return;
    auto heap = list(row);
    if (!better(score, static_cast<int32_t>(other), heap.score[0], heap.id[0])) return;
    heap.replace_root(score, static_cast<int32_t>(other));
    limit_[row] = heap.score[0];
  }

  // A row that is NaN has similarity 0 with itself.
  void self(int64_t row, T similarity) {
    if (first_ == 0) return;
    ids_[row * width_] = static_cast<int32_t>(row);
    similarities_[row * width_] = std::isnan(similarity) ? 0 : similarity;
  }

  // Offers the scores of `row` against the rows begin .. begin + count to both sides, or to `row` alone.
  void scan(const T* scores, int64_t row, int64_t begin, int64_t count);
  void scan_row(const T* scores, int64_t row, int64_t begin, int64_t count);

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

  int32_t* const ids_;
  T* const similarities_;
  const int64_t num_rows_, width_, first_;
  std::vector<T> limit_;  // the worst similarity that a row keeps
};

}  // namespace mmfast
