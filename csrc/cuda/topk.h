// The best scores of every row of a matrix that is seen tile by tile; shared by knn_graph and rank.
#pragma once
#include <cstdint>

#include "decisions.h"
#include "runtime.h"

namespace mmfast {

// Row r keeps scores[r * stride ..] and ids[r * stride ..], `size` of them, best first; -inf and -1 where nothing is.
template <typename T>
struct TopLists {
  T* scores;
  int32_t* ids;
  int64_t size;
  int64_t stride;
};

// scores [rows, columns]; column c has the id first_id + c. The numbers that decide are listed, which are computed for
// those scores alone that leave them a place in a list.
template <typename T>
struct ScoreTile {
  const T* scores;
  int64_t rows;
  int64_t columns;
  int64_t first_id;
  TileRows<T> deciding;
};

// Bytes of work space that topk_merge needs on the device, 0 for lists short enough for shared memory.
template <typename T>
int64_t topk_work_bytes(int64_t rows, int64_t size);

// Offers the scores of a tile to the lists of its rows, the lower id first among equal scores: tiles must come with
// ascending ids. Scores of -inf and NaN never enter; saw_nan [rows], if given, becomes true for rows with NaN.
template <typename T>
cudaError_t topk_merge(const ScoreTile<T>& tile, const TopLists<T>& lists, bool* saw_nan, void* work,
                       cudaStream_t stream);

}  // namespace mmfast
