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

// The starts of ragged rows, checked, contiguous.
inline at::Tensor checked_ptr(const at::Tensor& ptr, int64_t rows, int64_t count, const char* op, const char* name) {
  check_ptr_shape(ptr, rows, op, name);
  const at::Tensor dense = ptr.contiguous();
  check_ptr(dense, count, op, name);
  return dense;
}

}  // namespace mmfast
