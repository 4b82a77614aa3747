// A CSR operator as kernels read it, its checks, and the division of its rows into pieces of equal work.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "../check.h"
#include "simd.h"

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
  int64_t num_cols;
};

// Checks an operator [R, C] against a table of C rows that it multiplies, and keeps its tensors alive. What lies in
// `cols` is left to columns_fit.
class GraphTensors {
 public:
  GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const std::optional<at::Tensor>& values,
               const std::optional<at::Tensor>& row_scale, const std::optional<at::Tensor>& col_scale, int64_t num_cols,
               at::ScalarType table);

  int64_t num_rows() const { return ptr_.numel() - 1; }
  int64_t num_entries() const { return cols_.numel(); }

  template <typename T>
  Graph<T> view() const {
    return {ptr_.const_data_ptr<int64_t>(),
            cols_.const_data_ptr<int32_t>(),
            data<T>(values_),
            data<T>(row_scale_),
            data<T>(col_scale_),
            num_cols_};
  }

  // Refuses the columns that columns_fit found outside the table.
  void refuse_columns() const { check_ids(cols_, num_cols_, op_, "cols"); }

 private:
  template <typename T>
  static const T* data(const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  }

  const char* op_;
  int64_t num_cols_;
  at::Tensor ptr_, cols_, values_, row_scale_, col_scale_;
};

// Whether `count` columns lie in [0, size): a wild id would read foreign memory.
bool columns_fit(const int32_t* cols, int64_t count, int64_t size);

// Bounds of pieces of rows of about equal work, several per thread so that a late thread holds nobody up.
// `prefix` [count + 1] counts the entries before each row.
std::vector<int64_t> pieces(const int64_t* prefix, int64_t count, int threads);

}  // namespace mmfast
