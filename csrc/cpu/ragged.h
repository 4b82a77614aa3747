// Ragged rows: row r owns the values ptr[r] .. ptr[r + 1]; work is split into blocks of rows, sums kept per block.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "../check.h"

namespace mmfast {

constexpr int64_t kRowBlock = 64;

inline int64_t row_blocks(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

// body(block, first row, past the last row), in parallel.
template <typename Body>
void for_row_blocks(int64_t rows, const Body& body) {
  at::parallel_for(0, row_blocks(rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) body(b, b * kRowBlock, std::min(rows, (b + 1) * kRowBlock));
  });
}

// int64 [R+1], from 0 to `count`, never falling. Returns it contiguous.
inline at::Tensor check_ptr(const at::Tensor& ptr, int64_t rows, int64_t count, const char* op, const char* name) {
  check_dim(ptr, 1, op, name);
  check_dtype(ptr, at::kLong, op, name);
  check_size(ptr, 0, rows + 1, op, name);
  const at::Tensor dense = ptr.contiguous();
  const int64_t* p = dense.const_data_ptr<int64_t>();
  TORCH_CHECK_VALUE(p[0] == 0 && p[rows] == count && std::is_sorted(p, p + rows + 1), op, ": ", name,
                    " must rise from 0 to ", count, ", the number of values; got ", p[0], " to ", p[rows]);
  return dense;
}

}  // namespace mmfast
