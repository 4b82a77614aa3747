// The loops behind Candidates, without a branch on a single score.
#include "candidates.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "simd.h"

namespace mmfast {
namespace {

constexpr int64_t kGroup = 32;  // scores looked at together: a bit each
constexpr int64_t kRoom = 128;  // candidates beyond k before the list is cut back

template <typename T>
using Key = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// An integer that orders like the score; key_of and score_of undo each other. NaN lies beyond the infinities.
template <typename T>
MMFAST_INLINE Key<T> key_of(T score) {
  const auto bits = std::bit_cast<Key<T>>(score + T(0));  // -0.0 becomes 0.0: they are equal scores
  return bits ^ ((bits >> (8 * sizeof(T) - 1)) & std::numeric_limits<Key<T>>::max());
}

template <typename T>
MMFAST_INLINE T score_of(Key<T> key) {
  return std::bit_cast<T>(
      static_cast<Key<T>>(key ^ ((key >> (8 * sizeof(T) - 1)) & std::numeric_limits<Key<T>>::max())));
}

// Appends, from `size` on, the scores of a group that are not at or below the limit (so NaN too), and their ids.
template <typename T>
MMFAST_INLINE void append(const T* scores, int64_t count, int32_t first_id, T limit, T* out, int32_t* ids,
                          int64_t& size) {
  uint32_t above = 0;
  for (int64_t j = 0; j < count; ++j) above |= static_cast<uint32_t>(!(scores[j] <= limit)) << j;
  for (; above; above &= above - 1, ++size) {
    const int j = std::countr_zero(above);
    out[size] = scores[j];
    ids[size] = first_id + j;
  }
}

// Appends candidates until the list is full, skipping groups without one. Returns the number of scores consumed.
template <typename T>
MMFAST_INLINE int64_t fill(const T* scores, int64_t count, int32_t first_id, T limit, T* out, int32_t* ids,
                           int64_t full, int64_t& size) {
  int64_t i = 0;
  for (; i + kGroup <= count && size < full; i += kGroup) {
    int above = 0;
    for (int64_t j = 0; j < kGroup; ++j) above |= !(scores[i + j] <= limit);
    if (above) append(scores + i, kGroup, first_id + static_cast<int32_t>(i), limit, out, ids, size);
  }
  if (i + kGroup > count && size < full) {
    append(scores + i, count - i, first_id + static_cast<int32_t>(i), limit, out, ids, size);
    i = count;
  }
  return i;
}

// A bound that the k best keys reach, and as few others as possible: from the top bit down, one counting pass each.
template <typename K>
MMFAST_INLINE K bound_of_best(const K* keys, int64_t count, int64_t k) {
  using Unsigned = std::make_unsigned_t<K>;
  constexpr Unsigned kTop = Unsigned(1) << (8 * sizeof(K) - 1);
  Unsigned found = 0;
  for (Unsigned bit = kTop; bit; bit >>= 1) {
    const K trial = static_cast<K>((found | bit) ^ kTop);
    K reach = 0;
    for (int64_t i = 0; i < count; ++i) reach += keys[i] >= trial;
    if (reach >= k) found |= bit;
    if (reach == k) break;
  }
  return static_cast<K>(found ^ kTop);
}

// A limit that at least k of the scores exceed, and every score equal to the worst of those k: the scores are dealt to
// `shares` hands, and the limit is the best hand's maximum that is not among the k best maxima.
template <typename T>
MMFAST_INLINE T opening(const T* scores, int64_t count, int64_t k, int64_t shares, T* best, Key<T>* keys) {
  std::copy(scores, scores + shares, best);
  for (int64_t i = shares; i + shares <= count; i += shares) {
    for (int64_t s = 0; s < shares; ++s) best[s] = scores[i + s] > best[s] ? scores[i + s] : best[s];
  }
  for (int64_t s = 0; s < shares; ++s) keys[s] = key_of(best[s]);
  const Key<T> bound = bound_of_best(keys, shares, k);
  Key<T> limit = key_of(-std::numeric_limits<T>::infinity());
  for (int64_t s = 0; s < shares; ++s) limit = keys[s] < bound ? std::max(limit, keys[s]) : limit;
  return score_of<T>(limit);
}

// Cuts `count` candidates back to the k best, order kept; returns the lowest score kept. Equal ones: the first stay.
template <typename T>
MMFAST_INLINE T cut(T* scores, int32_t* ids, int64_t count, int64_t k, Key<T>* keys, bool& nan) {
  int unordered = 0;
  for (int64_t i = 0; i < count; ++i) {
    unordered |= scores[i] != scores[i];
    keys[i] = key_of(scores[i]);
  }
  nan |= unordered != 0;
  const Key<T> bound = bound_of_best(keys, count, k);
  int64_t above = 0;
  for (int64_t i = 0; i < count; ++i) above += keys[i] > bound;
  int64_t equal_left = k - above, end = 0;
  Key<T> lowest = std::numeric_limits<Key<T>>::max();
  for (int64_t i = 0; i < count; ++i) {
    const bool equal = keys[i] == bound, keep = keys[i] > bound || (equal && equal_left > 0);
    equal_left -= equal;
    lowest = keep ? std::min(lowest, keys[i]) : lowest;
    scores[end] = scores[i];
    ids[end] = ids[i];
    end += keep;
  }
  return score_of<T>(lowest);
}

// The k-th best of at least k scores.
template <typename T>
MMFAST_INLINE T kth(const T* scores, int64_t count, int64_t k, Key<T>* keys) {
  for (int64_t i = 0; i < count; ++i) keys[i] = key_of(scores[i]);
  const Key<T> bound = bound_of_best(keys, count, k);
  Key<T> lowest = std::numeric_limits<Key<T>>::max();
  for (int64_t i = 0; i < count; ++i) lowest = keys[i] >= bound ? std::min(lowest, keys[i]) : lowest;
  return score_of<T>(lowest);
}

MMFAST_CLONES int64_t fill_list(const float* scores, int64_t count, int32_t first_id, float limit, float* out,
                                int32_t* ids, int64_t full, int64_t& size) {
  return fill(scores, count, first_id, limit, out, ids, full, size);
}

MMFAST_CLONES int64_t fill_list(const double* scores, int64_t count, int32_t first_id, double limit, double* out,
                                int32_t* ids, int64_t full, int64_t& size) {
  return fill(scores, count, first_id, limit, out, ids, full, size);
}

MMFAST_CLONES float opening_limit(const float* scores, int64_t count, int64_t k, int64_t shares, float* best,
                                  int32_t* keys) {
  return opening(scores, count, k, shares, best, keys);
}

MMFAST_CLONES double opening_limit(const double* scores, int64_t count, int64_t k, int64_t shares, double* best,
                                   int64_t* keys) {
  return opening(scores, count, k, shares, best, keys);
}

MMFAST_CLONES float cut_list(float* scores, int32_t* ids, int64_t count, int64_t k, int32_t* keys, bool& nan) {
  return cut(scores, ids, count, k, keys, nan);
}

MMFAST_CLONES double cut_list(double* scores, int32_t* ids, int64_t count, int64_t k, int64_t* keys, bool& nan) {
  return cut(scores, ids, count, k, keys, nan);
}

MMFAST_CLONES float kth_of(const float* scores, int64_t count, int64_t k, int32_t* keys) {
  return kth(scores, count, k, keys);
}

MMFAST_CLONES double kth_of(const double* scores, int64_t count, int64_t k, int64_t* keys) {
  return kth(scores, count, k, keys);
}

}  // namespace

template <typename T>
Candidates<T>::Candidates(int64_t k)
    : k_(k),
      full_(k + kRoom),
      shares_((2 * k + kGroup - 1) / kGroup * kGroup),
      scores_(full_ + shares_),
      ids_(full_ + kGroup),
      keys_(full_ + shares_) {}

template <typename T>
void Candidates<T>::scan(const T* scores, int64_t count, int32_t first_id) {
  if (limit_ == kNone && count_ == 0 && count >= 2 * shares_) {
    limit_ = opening_limit(scores, count, k_, shares_, scores_.data(), keys_.data());
  }
  for (int64_t done = 0;;) {
    done += fill_list(scores + done, count - done, first_id + static_cast<int32_t>(done), limit_, scores_.data(),
                      ids_.data(), full_, count_);
    if (count_ < full_) return;
    keep_best();
  }
}

template <typename T>
void Candidates<T>::keep_best() {
  limit_ = cut_list(scores_.data(), ids_.data(), count_, k_, keys_.data(), nan_);
  count_ = k_;
}

template <typename T>
int64_t Candidates<T>::take(int32_t* ids, T* scores) {
  if (count_ > k_) {
    keep_best();
  } else {
    for (int64_t i = 0; i < count_; ++i) nan_ |= scores_[i] != scores_[i];
  }
  std::copy_n(ids_.begin(), count_, ids);
  std::copy_n(scores_.begin(), count_, scores);
  return count_;
}

template <typename T>
int64_t Candidates<T>::finish(int32_t* ids, T* scores) {
  const int64_t count = take(ids, scores);
  sort(ids, scores, count);
  return count;
}

template <typename T>
T Candidates<T>::kth_best(const T* scores, int64_t count, int64_t k) {
  return kth_of(scores, count, k, keys_.data());
}

template <typename T>
void Candidates<T>::sort(int32_t* ids, T* scores, int64_t count) {
  order_.resize(count);
  for (int64_t i = 0; i < count; ++i) order_[i] = {key_of(scores[i]), ids[i]};
  std::sort(order_.begin(), order_.end(),
            [](const Entry& a, const Entry& b) { return a.key != b.key ? a.key > b.key : a.id < b.id; });
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = order_[i].id;
    scores[i] = score_of<T>(order_[i].key);
  }
}

template class Candidates<float>;
template class Candidates<double>;

}  // namespace mmfast
