// A CSR operator as the kernels of every device read it.
#pragma once
#include <cstdint>

namespace mmfast {

template <typename T>
struct SumType {
  using Type = float;
};
template <>
struct SumType<double> {
  using Type = double;
};

// The type in which rows of T are summed, and in which values and scales are given.
template <typename T>
using Sum = typename SumType<T>::Type;

// Entry e of row r is values[e] * row_scale[r] * col_scale[cols[e]]; a null table stands for ones.
template <typename T>
struct Graph {
  const int64_t* ptr;
  const int32_t* cols;
  const T* values;
  const T* row_scale;
  const T* col_scale;
  int64_t num_rows;
  int64_t num_cols;
  int64_t num_entries;
};

}  // namespace mmfast
