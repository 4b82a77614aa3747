// The loops that look at every score, compiled per x86 level.
#include "neighbour_lists.h"

namespace mmfast {
namespace {

constexpr int64_t kStride = 32;  // scores looked at together

// Whether any of kStride numbers may enter the list of the row or, `both`, that of its column.
template <bool both, typename T>
MMFAST_INLINE bool any_enters(const T* scores, const T* lengths, T slack, T row_limit, const T* column_limits) {
  int enters = 0;
  for (int64_t j = 0; j < kStride; ++j) {
    const T most = scores[j] + slack * lengths[j];
    enters |= most >= row_limit;
    if (both) enters |= most >= column_limits[j];
  }
  return enters != 0;
}

template <bool both, typename T>
MMFAST_INLINE void offer_strip(NeighbourLists<T>& lists, const Strip<T>& strip) {
  const Decisions<T>& decisions = lists.decisions();
  const T *lengths = decisions.lengths() + strip.begin, *limits = lists.limits() + strip.begin, *scores = strip.scores;
  const T slack = decisions.slack(strip.row);
  for (int64_t j = 0; j < strip.count; j += kStride) {
    const int64_t end = std::min(strip.count, j + kStride);
    const bool whole = end - j == kStride;
    if (whole && !any_enters<both>(scores + j, lengths + j, slack, lists.limit(strip.row), limits + j)) continue;
    for (int64_t c = j; c < end; ++c) {
      const T most = scores[c] + slack * lengths[c];
      const bool here = most >= lists.limit(strip.row), there = both && most >= limits[c];
      if (!here && !there) continue;
      const T similarity = decisions.decide(strip.x, strip.others + c * decisions.width());
      if (here) lists.offer(strip.row, similarity, strip.begin + c);
      if (there) lists.offer(strip.begin + c, similarity, strip.row);
    }
  }
}

MMFAST_CLONES void both(NeighbourLists<float>& lists, const Strip<float>& strip) { offer_strip<true>(lists, strip); }
MMFAST_CLONES void both(NeighbourLists<double>& lists, const Strip<double>& strip) { offer_strip<true>(lists, strip); }
MMFAST_CLONES void one(NeighbourLists<float>& lists, const Strip<float>& strip) { offer_strip<false>(lists, strip); }
MMFAST_CLONES void one(NeighbourLists<double>& lists, const Strip<double>& strip) { offer_strip<false>(lists, strip); }

}  // namespace

template <typename T>
void NeighbourLists<T>::scan(const Strip<T>& strip) {
  both(*this, strip);
}

template <typename T>
void NeighbourLists<T>::scan_row(const Strip<T>& strip) {
  one(*this, strip);
}

template class NeighbourLists<float>;
template class NeighbourLists<double>;

}  // namespace mmfast
