// The checks that must look at values: ids inside their table, sorted where they must be.
#include "check.h"

#include <algorithm>
#include <cstdint>
#include <functional>

namespace mmfast {
namespace {

template <typename T>
void check_range(const T* ids, int64_t count, int64_t size, const char* op, const char* name) {
  if (count == 0) return;
  const auto [low, high] = std::minmax_element(ids, ids + count);
  TORCH_CHECK(*low >= 0 && *high < size, op, ": ", name, " holds ids from ", *low, " to ", *high, "; wanted 0 to ",
              size - 1);
}

}  // namespace

void check_ids(const at::Tensor& ids, int64_t size, const char* op, const char* name) {
  TORCH_CHECK(ids.is_contiguous(), op, ": ", name, " is not contiguous; call .contiguous()");
  if (ids.scalar_type() == at::kLong) {
    check_range(ids.const_data_ptr<int64_t>(), ids.numel(), size, op, name);
  } else {
    check_dtype(ids, at::kInt, op, name);
    check_range(ids.const_data_ptr<int32_t>(), ids.numel(), size, op, name);
  }
}

at::Tensor checked_rows(const at::Tensor& rows, int64_t size, const char* op, const char* advice) {
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  const at::Tensor dense = rows.contiguous();
  check_ids(dense, size, op, "rows");
  const int64_t *begin = dense.const_data_ptr<int64_t>(), *end = begin + dense.numel();
  TORCH_CHECK(std::adjacent_find(begin, end, std::greater_equal<>()) == end, op, ": rows are not sorted and unique; ",
              advice);
  return dense;
}

}  // namespace mmfast
