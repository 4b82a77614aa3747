// The loops that look at every score, compiled per x86 level.
#include "neighbour_lists.h"

#include "scan.h"

namespace mmfast {
namespace {

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
