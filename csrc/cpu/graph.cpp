// Checks and partition of CSR operators.
#include "graph.h"

#include <ATen/Parallel.h>

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

at::Tensor optional_vector(const std::optional<at::Tensor>& t, int64_t size, at::ScalarType table, const char* op,
                           const char* name) {
  if (!t) return {};
  check_dim(*t, 1, op, name);
  check_size(*t, 0, size, op, name);
  check_dtype(*t, table == at::kDouble ? at::kDouble : at::kFloat, op, name);
  return t->contiguous();
}

}  // namespace

GraphTensors::GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols,
                           const std::optional<at::Tensor>& values, const std::optional<at::Tensor>& row_scale,
                           const std::optional<at::Tensor>& col_scale, int64_t num_cols, at::ScalarType table)
    : op_(op), num_cols_(num_cols) {
  check_dim(ptr, 1, op, "ptr");
  check_dtype(ptr, at::kLong, op, "ptr");
  TORCH_CHECK(ptr.numel() > 0, op, ": ptr is empty; wanted a number for every row and one more");
  check_dim(cols, 1, op, "cols");
  check_dtype(cols, at::kInt, op, "cols");
  ptr_ = ptr.contiguous();
  cols_ = cols.contiguous();
  values_ = optional_vector(values, num_entries(), table, op, "values");
  row_scale_ = optional_vector(row_scale, num_rows(), table, op, "row_scale");
  col_scale_ = optional_vector(col_scale, num_cols, table, op, "col_scale");

  const int64_t* p = ptr_.const_data_ptr<int64_t>();
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
