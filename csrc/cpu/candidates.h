// The k best scores of one row that is scanned in the order of its ids.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace mmfast {

// Keeps what might still be among the k best and drops the rest whenever the store is full, so most scores cost one
// comparison and nothing else. A score of -inf is never kept; among equal scores the lower id wins.
template <typename T>
class Candidates {
  using Key = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // an integer that orders like the score
  struct Entry {
    Key key;
    int32_t id;
  };

 public:
  explicit Candidates(int64_t k);

  void clear() {
    count_ = 0;
    nan_ = false;
    limit_ = kNone;
  }

  // Offers scores[i] with the id first_id + i; ids ascend from call to call.
  void scan(const T* scores, int64_t count, int32_t first_id);

  // Writes the best, by ascending id, and returns their number, at most k.
  int64_t take(int32_t* ids, T* scores);

  // The same, the best first.
  int64_t finish(int32_t* ids, T* scores);

  // The k-th best of `count` scores that take() has written.
  T kth_best(const T* scores, int64_t count, int64_t k);

  // Puts `count` pairs in order, the best first.
  void sort(int32_t* ids, T* scores, int64_t count);

  bool saw_nan() const { return nan_; }

 private:
  void keep_best();

  static constexpr T kNone = -std::numeric_limits<T>::infinity();

  int64_t k_, full_, shares_, count_ = 0;
  bool nan_ = false;
  T limit_ = kNone;  // only higher scores can still be among the k best
  std::vector<T> scores_;
  std::vector<int32_t> ids_;
  std::vector<Key> keys_;     // work space of keep_best and kth_best
  std::vector<Entry> order_;  // and of sort
};

}  // namespace mmfast
