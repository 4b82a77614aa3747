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

// The number of a step lies on the device: a captured graph counts it up. `less` is taken from it.
struct StepNumber {
  const int64_t* step;
  int64_t less;

  MMFAST_HOST_DEVICE int64_t operator*() const { return *step - less; }
};

// Stops the device where one of `rows` (all where null) is made up to a later step than `last`.
cudaError_t adam_check_made(const int32_t* row_steps, const int64_t* rows, int64_t count, StepNumber last,
                            const Label& label, cudaStream_t stream);

// Length of one of the four tables of powers that a catch-up reads.
template <typename T>
int64_t adam_powers_length(const AdamSettings& set);

// Makes the steps without a gradient up to `last` of `rows`, which may repeat, or of parameters and moments of all rows
// where it is null. powers [4, adam_powers_length] is work space.
template <typename T>
cudaError_t adam_catch_up(const LazyTable<T>& table, const int64_t* rows, int64_t count, const AdamSettings& set,
                          StepNumber last, double* powers, cudaStream_t stream);

// Makes step number *step of unique rows whose parameters are current; grad [count, width].
template <typename T>
cudaError_t adam_lazy_step(const LazyTable<T>& table, const int64_t* rows, int64_t count, const T* grad,
                           const AdamSettings& set, const int64_t* step, cudaStream_t stream);

}  // namespace mmfast
