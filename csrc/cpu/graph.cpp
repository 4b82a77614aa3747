// Checks and partition of CSR operators.
#include "graph.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace mmfast {
namespace {

constexpr int64_t kRowCost = 4;  // a row's own reads and writes, in entries
constexpr int64_t kPiecesPerThread = 16;
constexpr int64_t kPieceCost = 1 << 16;  // so that the columns of a piece stay in a core's cache

MMFAST_CLONES bool ascending(const int64_t* ptr, int64_t count) {
  int64_t falls = 0;
  for (int64_t r = 0; r < count; ++r) falls |= ptr[r + 1] - ptr[r];
  return falls >= 0;  // the sign bit of any fall survives
}

}  // namespace

GraphTensors::GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                           const Optional& row_scale, const Optional& col_scale, const at::Tensor& table,
                           int64_t num_cols)
    : CsrTensors(op, ptr, cols, values, row_scale, col_scale, table, num_cols) {
  const int64_t* p = this->ptr();
  TORCH_CHECK(p[0] == 0 && p[num_rows()] == num_entries() && ascending(p, num_rows()), op, ": ptr runs from ", p[0],
              " to ", p[num_rows()], "; wanted from 0 up to the ", num_entries(), " entries, never falling");
}

MMFAST_CLONES bool columns_fit(const int32_t* cols, int64_t count, int64_t size) {
  uint32_t high = 0;  // a negative id reads as a very large one
  for (int64_t e = 0; e < count; ++e) high = std::max(high, static_cast<uint32_t>(cols[e]));
  return count == 0 || static_cast<int64_t>(high) < size;
}

std::vector<int64_t> pieces(const int64_t* prefix, int64_t count, int threads) {
  const int64_t total = prefix[count] + kRowCost * count;
  const int64_t wanted_pieces = std::max(threads == 1 ? 1 : threads * kPiecesPerThread, total / kPieceCost);
  const int64_t number = std::max<int64_t>(1, std::min(count, wanted_pieces));
  std::vector<int64_t> bounds{0};
  for (int64_t piece = 1; piece < number; ++piece) {
    const int64_t wanted = total / number * piece;
    int64_t low = bounds.back(), high = count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      (prefix[middle] + kRowCost* middle < wanted ? low = middle + 1 : high = middle);
    }
    bounds.push_back(low);
  }
  bounds.push_back(count);
  return bounds;
}

}  // namespace mmfast
