// The loops that look at every score, compiled per x86 level.
#include "neighbour_lists.h"

namespace mmfast {
namespace {

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

template <typename T>
MMFAST_INLINE void offer_to_both(NeighbourLists<T>& lists, const T* scores, int64_t row, int64_t begin, int64_t count) {
  for (int64_t j = 0; j < count; j += kStride) {
    const int64_t end = std::min(count, j + kStride);
    if (end - j == kStride && !any_enters(scores + j, lists.limit(row), lists.limits() + begin + j)) continue;
    for (int64_t c = j; c < end; ++c) {
      lists.offer(row, scores[c], begin + c);
      lists.offer(begin + c, scores[c], row);
    }
  }
}

template <typename T>
MMFAST_INLINE void offer_to_row(NeighbourLists<T>& lists, const T* scores, int64_t row, int64_t begin, int64_t count) {
  for (int64_t j = 0; j < count; j += kStride) {
    const int64_t end = std::min(count, j + kStride);
    if (end - j == kStride && !any_enters(scores + j, lists.limit(row))) continue;
    for (int64_t c = j; c < end; ++c) lists.offer(row, scores[c], begin + c);
  }
}

MMFAST_CLONES void both(NeighbourLists<float>& lists, const float* scores, int64_t row, int64_t begin, int64_t count) {
  offer_to_both(lists, scores, row, begin, count);
}

MMFAST_CLONES void both(NeighbourLists<double>& lists, const double* scores, int64_t row, int64_t begin,
                        int64_t count) {
  offer_to_both(lists, scores, row, begin, count);
}

MMFAST_CLONES void one(NeighbourLists<float>& lists, const float* scores, int64_t row, int64_t begin, int64_t count) {
  offer_to_row(lists, scores, row, begin, count);
}

MMFAST_CLONES void one(NeighbourLists<double>& lists, const double* scores, int64_t row, int64_t begin, int64_t count) {
  offer_to_row(lists, scores, row, begin, count);
}

}  // namespace

template <typename T>
void NeighbourLists<T>::scan(const T* scores, int64_t row, int64_t begin, int64_t count) {
  both(*this, scores, row, begin, count);
}

template <typename T>
void NeighbourLists<T>::scan_row(const T* scores, int64_t row, int64_t begin, int64_t count) {
  one(*this, scores, row, begin, count);
}

template class NeighbourLists<float>;
template class NeighbourLists<double>;

}  // namespace mmfast
