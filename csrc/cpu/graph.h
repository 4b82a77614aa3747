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

// Entry e of row r is values[e] * row_scale[r] * col_scale[cols[e]]; a null table stands for ones.
template <typename T>
struct Graph {
  const int64_t* ptr;
  const int32_t* cols;
  const T* values;
  const T* row_scale;
  const T* col_scale;
  int64_t num_entries;

  // The entry without its row_scale, which is applied once per row.
  MMFAST_INLINE T weight(int64_t e) const {
    T w = values ? values[e] : T(1);
    return col_scale ? w * col_scale[cols[e]] : w;
  }
};

// Checks a square operator against the table `x` [N, D] it multiplies, and keeps its tensors alive.
class GraphTensors {
 public:
  GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const std::optional<at::Tensor>& values,
               const std::optional<at::Tensor>& row_scale, const std::optional<at::Tensor>& col_scale,
               const at::Tensor& x);

  template <typename T>
  Graph<T> view() const {
    return {ptr_.const_data_ptr<int64_t>(),
            cols_.const_data_ptr<int32_t>(),
            data<T>(values_),
            data<T>(row_scale_),
            data<T>(col_scale_),
            cols_.numel()};
  }

 private:
  template <typename T>
  static const T* data(const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  }

  at::Tensor ptr_, cols_, values_, row_scale_, col_scale_;
};

// Bounds of pieces of rows of about equal work, several per thread so that a late thread holds nobody up.
// `prefix` [count + 1] counts the entries before each row.
std::vector<int64_t> pieces(const int64_t* prefix, int64_t count, int threads);

}  // namespace mmfast
