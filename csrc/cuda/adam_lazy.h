// Launchers of the kernels of row-lazy Adam; ../replay.h holds the mathematics.
#pragma once
#include <cstdint>

#include "../adam.h"
#include "device_check.h"
#include "runtime.h"

namespace mmfast {

template <typename T>
struct LazyTable {
  T* param;
  T* exp_avg;
  T* exp_avg_sq;
  int32_t* row_steps;  // [num_rows, 2]: steps made of the parameters and of the moments
  int64_t num_rows;
  int64_t width;
};

// Stops the device where one of `rows` (all where null) is made up to a later step than `most`.
cudaError_t adam_check_made(const int32_t* row_steps, const int64_t* rows, int64_t count, int64_t most, int64_t step,
                            const Label& label, cudaStream_t stream);

// Length of one of the four tables of powers that a catch-up to `step` reads.
template <typename T>
int64_t adam_powers_length(const AdamSettings& set, int64_t step);

// Makes the steps without a gradient up to `step` of `rows`, which may repeat, or of parameters and moments of all rows
// where it is null. powers [4, adam_powers_length] is work space.
template <typename T>
cudaError_t adam_catch_up(const LazyTable<T>& table, const int64_t* rows, int64_t count, const AdamSettings& set,
                          int64_t step, double* powers, cudaStream_t stream);

// Makes step number `step` of unique rows whose parameters are current; grad [count, width].
template <typename T>
cudaError_t adam_lazy_step(const LazyTable<T>& table, const int64_t* rows, int64_t count, const T* grad,
                           const AdamSettings& set, int64_t step, cudaStream_t stream);

}  // namespace mmfast
