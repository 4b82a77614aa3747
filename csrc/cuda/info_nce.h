// The passes round the matrix products of info_nce, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

// What the anchors [rows] have seen: weights are exp(score - highest), their sum is `sum`.
template <typename T>
struct NceAnchors {
  T *highest, *positive;
  double* sum;
};

// A tile of scores [rows, count] of candidates begin .. begin + count; index and skip (or null) are those of its rows.
template <typename T>
struct NceTile {
  T* scores;
  const int64_t *index, *skip;
  int64_t rows, begin, count;
};

// out = scale * x, its rows divided by their length first where inverse [rows] is there to receive 1 / length.
template <typename T>
cudaError_t nce_prepare(const T* x, int64_t rows, int64_t dim, T scale, T* out, T* inverse, cudaStream_t stream);

// Scores become weights; sums [rows, dim], of the weighted candidates of earlier tiles, or null, are scaled to match.
template <typename T>
cudaError_t nce_weigh(const NceTile<T>& tile, const NceAnchors<T>& anchors, bool first, T* rescale, T* sums,
                      int64_t dim, cudaStream_t stream);

// Losses; the anchors' sums as T; sums, or null, become the derivatives by the prepared anchors times the temperature.
template <typename T>
cudaError_t nce_finish(const NceAnchors<T>& anchors, int64_t rows, int64_t dim, const int64_t* index,
                       const T* candidates, T* loss, T* total, T* sums, cudaStream_t stream);

// Scores become grad[r] * (softmax - [c is the positive]).
template <typename T>
cudaError_t nce_slopes(const NceTile<T>& tile, const T* highest, const T* total, const T* grad, cudaStream_t stream);

// grad, by x / length, becomes factor times that by x; prepared = scale * x / length, inverse or null as above.
template <typename T>
cudaError_t nce_undo_length(const T* prepared, const T* inverse, int64_t rows, int64_t dim, T scale, T factor, T* grad,
                            cudaStream_t stream);

}  // namespace mmfast
