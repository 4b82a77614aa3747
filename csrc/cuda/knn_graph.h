// Launchers of the kernels round the products of the knn ops.
#pragma once
#include <cstdint>

#include "decisions.h"
#include "runtime.h"

namespace mmfast {

// Scales rows [count, width] to length one for cosine; an all-zero row becomes NaN, whose products enter no list.
// bad[r] becomes true where a row is not finite, or too large for its inner products to be. lengths [count] receives no
// less than the length of each row, far above rounding, so that products that underflow count.
template <typename T>
cudaError_t knn_normalise(T* rows, int64_t count, int64_t width, bool cosine, bool* bad, T* lengths,
                          cudaStream_t stream);

// Replaces the diagonal of scores [size, size] by -inf. Where given, self_ids and self_scores (one every `stride`)
// receive the row ids, from first_id on, and what decides for a row with itself, 0 for NaN.
template <typename T>
cudaError_t knn_take_self(T* scores, int64_t size, int64_t first_id, const TileRows<T>& deciding, int32_t* self_ids,
                          T* self_scores, int64_t stride, cudaStream_t stream);

// Adds to counts [rows] the pairs of a tile [rows, columns] whose deciding number is above eta.
template <typename T>
cudaError_t knn_count_above(const T* scores, int64_t rows, int64_t columns, const TileRows<T>& deciding, double eta,
                            int64_t* counts, cudaStream_t stream);

// Appends these numbers and their ids, first_id + column, behind what row r has: next[r] is its next free slot of ids
// and similarities, end[r] the first that is not its own.
template <typename T>
cudaError_t knn_write_above(const T* scores, int64_t rows, int64_t columns, int64_t first_id,
                            const TileRows<T>& deciding, double eta, int64_t* next, const int64_t* end, int32_t* ids,
                            T* similarities, cudaStream_t stream);

}  // namespace mmfast
