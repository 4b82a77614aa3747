// Checks and partition of CSR operators.
#include "graph.h"

#include <ATen/Parallel.h>

namespace mmfast {
namespace {

constexpr int64_t kRowCost = 4;  // a row's own reads and writes, in entries
constexpr int64_t kPiecesPerThread = 16;

// Whether every column lies in [0, size) and ptr never falls: a wild id would read foreign memory. Read in full at
// every call, at the speed of memory, which is a hundredth of a product.
MMFAST_CLONES bool columns_fit(const int32_t* cols, int64_t count, int64_t size) {
  uint32_t high = 0;  // a negative id reads as a very large one
  for (int64_t e = 0; e < count; ++e) high = std::max(high, static_cast<uint32_t>(cols[e]));
  return count == 0 || static_cast<int64_t>(high) < size;
}

MMFAST_CLONES bool ascending(const int64_t* ptr, int64_t count) {
  int64_t falls = 0;
  for (int64_t r = 0; r < count; ++r) falls |= ptr[r + 1] - ptr[r];
  return falls >= 0;  // the sign bit of any fall survives
}

at::Tensor optional_vector(const std::optional<at::Tensor>& t, int64_t size, const at::Tensor& x, const char* op,
                           const char* name) {
  if (!t) return {};
  check_dim(*t, 1, op, name);
  check_size(*t, 0, size, op, name);
  check_dtype(*t, x.scalar_type(), op, name);
  return t->contiguous();
}

}  // namespace

GraphTensors::GraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols,
                           const std::optional<at::Tensor>& values, const std::optional<at::Tensor>& row_scale,
                           const std::optional<at::Tensor>& col_scale, const at::Tensor& x) {
  check_dim(ptr, 1, op, "ptr");
  check_dtype(ptr, at::kLong, op, "ptr");
  check_size(ptr, 0, x.size(0) + 1, op, "ptr");
  check_dim(cols, 1, op, "cols");
  check_dtype(cols, at::kInt, op, "cols");
  ptr_ = ptr.contiguous();
  cols_ = cols.contiguous();
  values_ = optional_vector(values, cols.numel(), x, op, "values");
  row_scale_ = optional_vector(row_scale, x.size(0), x, op, "row_scale");
  col_scale_ = optional_vector(col_scale, x.size(0), x, op, "col_scale");

  const int64_t* p = ptr_.const_data_ptr<int64_t>();
  TORCH_CHECK(p[0] == 0 && p[x.size(0)] == cols.numel() && ascending(p, x.size(0)), op, ": ptr runs from ", p[0],
              " to ", p[x.size(0)], "; wanted from 0 up to the ", cols.numel(), " entries, never falling");
  if (!columns_fit(cols_.const_data_ptr<int32_t>(), cols.numel(), x.size(0))) check_ids(cols_, x.size(0), op, "cols");
}

std::vector<int64_t> pieces(const int64_t* prefix, int64_t count, int threads) {
  const int64_t total = prefix[count] + kRowCost * count;
  const int64_t number = threads == 1 ? 1 : std::min(count, threads * kPiecesPerThread);
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
