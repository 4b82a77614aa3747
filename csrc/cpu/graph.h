// Checks of CSR operators, and the division of its rows into pieces of equal work.
#pragma once
#include <cstdint>
#include <vector>

#include "../csr_tensors.h"
#include "simd.h"

namespace mmfast {

// What lies in `cols` is left to columns_fit.
class GraphTensors : public CsrTensors {
 public:
  GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
               const Optional& row_scale, const Optional& col_scale, const at::Tensor& table, int64_t num_cols);

  // Refuses the columns that columns_fit found outside the table.
  void refuse_columns() const { check_ids(cols_, num_cols_, op_, "cols"); }
};

// Whether `count` columns lie in [0, size): a wild id would read foreign memory.
bool columns_fit(const int32_t* cols, int64_t count, int64_t size);

// Bounds of pieces of rows of about equal work, several per thread so that a late thread holds nobody up.
// `prefix` [count + 1] counts the entries before each row.
std::vector<int64_t> pieces(const int64_t* prefix, int64_t count, int threads);

}  // namespace mmfast
