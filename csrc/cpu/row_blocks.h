// Work on rows in blocks, for sums that are kept per block and added in order.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

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

}  // namespace mmfast
