// Shows a row of scores to lists of which few are changed; for functions that are compiled per x86 level.
#pragma once
#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace mmfast {

constexpr int64_t kStride = 32;  // scores looked at together

// Whether any of kStride scores can enter the list of the row or that of its column.
template <typename T>
MMFAST_INLINE bool any_enters(const T* scores, T row_limit, const T* column_limit) {
  int enters = 0;
  for (int64_t j = 0; j < kStride; ++j) enters |= (scores[j] >= row_limit) | (scores[j] >= column_limit[j]);
  return enters != 0;
}

template <typename T>
MMFAST_INLINE bool any_enters(const T* scores, T row_limit) {
  int enters = 0;
  for (int64_t j = 0; j < kStride; ++j) enters |= scores[j] >= row_limit;
  return enters != 0;
}

// Offers the scores of `row` against the rows begin .. begin + count to both sides, or to `row` alone. Lists have
// limit(row), limits() and offer(row, score, other).
template <typename Lists, typename T>
MMFAST_INLINE void offer_to_both(Lists& lists, const T* scores, int64_t row, int64_t begin, int64_t count) {
  for (int64_t j = 0; j < count; j += kStride) {
    const int64_t end = std::min(count, j + kStride);
    if (end - j == kStride && !any_enters(scores + j, lists.limit(row), lists.limits() + begin + j)) continue;
    for (int64_t c = j; c < end; ++c) {
      lists.offer(row, scores[c], begin + c);
      lists.offer(begin + c, scores[c], row);
    }
  }
}

template <typename Lists, typename T>
MMFAST_INLINE void offer_to_row(Lists& lists, const T* scores, int64_t row, int64_t begin, int64_t count) {
  for (int64_t j = 0; j < count; j += kStride) {
    const int64_t end = std::min(count, j + kStride);
    if (end - j == kStride && !any_enters(scores + j, lists.limit(row))) continue;
    for (int64_t c = j; c < end; ++c) lists.offer(row, scores[c], begin + c);
  }
}

}  // namespace mmfast
