// The k best (score, id) pairs of one row: the higher score first, the lower id among equal scores.
#pragma once
#include <cstdint>

#include "simd.h"

namespace mmfast {

template <typename T>
MMFAST_INLINE bool better(T score, int32_t id, T other_score, int32_t other_id) {
  return score > other_score || (score == other_score && id < other_id);
}

// A heap of exactly `size` pairs in two arrays, the worst pair at the root; fill it with (-inf, INT32_MAX) first.
template <typename T>
struct WorstFirst {
  T* score;
  int32_t* id;
  int64_t size;

  MMFAST_INLINE void replace_root(T new_score, int32_t new_id) {
    int64_t hole = 0;
    for (int64_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size && better(score[child], id[child], score[child + 1], id[child + 1])) ++child;
      if (!better(new_score, new_id, score[child], id[child])) break;
      score[hole] = score[child];
      id[hole] = id[child];
      hole = child;
    }
    score[hole] = new_score;
    id[hole] = new_id;
  }

  // Best pair first.
  void sort() {
    for (int64_t end = size; end > 1; --end) {
      const T worst = score[0];
      const int32_t worst_id = id[0];
      WorstFirst{score, id, end - 1}.replace_root(score[end - 1], id[end - 1]);
      score[end - 1] = worst;
      id[end - 1] = worst_id;
    }
  }
};

}  // namespace mmfast
