// Launchers of the kernels of adam_rows_.
#pragma once
#include <cstdint>

#include "../adam.h"
#include "runtime.h"

namespace mmfast {

// A table [num_rows, width] with its moments; row r of the table has the gradient row place[r], or none below 0.
template <typename T>
struct AdamRows {
  T* param;
  T* exp_avg;
  T* exp_avg_sq;
  const int32_t* place;
  const T* grad;
  int64_t num_rows;
  int64_t width;
  const AdamStep<T>* step;
  T weight_decay;
};

// place[rows[i]] = i, where `place` holds -1 before; *common is what step number *step has in common for all numbers.
template <typename T>
cudaError_t adam_rows_prepare(const int64_t* rows, int64_t count, const AdamSettings& set, const int64_t* step,
                              int32_t* place, AdamStep<T>* common, cudaStream_t stream);

template <typename T>
cudaError_t adam_rows_step(const AdamRows<T>& s, cudaStream_t stream);

}  // namespace mmfast
