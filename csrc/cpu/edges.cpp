// Checks of edge lists.
#include "edges.h"

namespace mmfast {
namespace {

// Whether all ids lie in [0, size), at the speed of memory.
MMFAST_CLONES bool inside(const int32_t* ids, int64_t count, int64_t size) {
  uint32_t high = 0;  // a negative id reads as a very large one
  for (int64_t e = 0; e < count; ++e) high = std::max(high, static_cast<uint32_t>(ids[e]));
  return count == 0 || static_cast<int64_t>(high) < size;
}

}  // namespace

at::Tensor checked_ptr(const at::Tensor& ptr, int64_t entries, const char* op, const char* name) {
  check_dim(ptr, 1, op, name);
  check_dtype(ptr, at::kLong, op, name);
  TORCH_CHECK(ptr.numel() > 0, op, ": ", name, " is empty; wanted one number more than rows");
  at::Tensor dense = ptr.contiguous();
  const int64_t *p = dense.const_data_ptr<int64_t>(), *last = p + dense.numel() - 1;
  TORCH_CHECK(*p == 0 && *last == entries && std::is_sorted(p, last + 1), op, ": ", name, " runs from ", *p, " to ",
              *last, "; wanted from 0 up to the ", entries, " entries, never falling");
  return dense;
}

at::Tensor checked_ids(const at::Tensor& ids, int64_t entries, int64_t size, const char* op, const char* name) {
  check_dim(ids, 1, op, name);
  check_size(ids, 0, entries, op, name);
  check_dtype(ids, at::kInt, op, name);
  at::Tensor dense = ids.contiguous();
  if (!inside(dense.const_data_ptr<int32_t>(), entries, size)) check_ids(dense, size, op, name);
  return dense;
}

}  // namespace mmfast
