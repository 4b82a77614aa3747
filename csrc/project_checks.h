// Arguments of project_rows and its gradients, checked alike on every device; the values of ids are left to the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>

#include "check.h"

namespace mmfast {

inline void check_projected(const at::Tensor& table, const at::Tensor& rows, const char* op) {
  check_dim(table, 2, op, "table");
  check_real(table, op, "table");
  TORCH_CHECK(table.is_contiguous(), op, ": table is not contiguous; call .contiguous()");
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  check_device(rows, table, op, "rows");
}

// rows is contiguous and on the CPU.
inline void check_rising(const at::Tensor& rows, const char* op) {
  const int64_t *begin = rows.const_data_ptr<int64_t>(), *end = begin + rows.numel();
  TORCH_CHECK(std::adjacent_find(begin, end, std::greater_equal<>()) == end, op,
              ": rows do not ascend; sort them and leave repeated ones out, as compact_ids does");
}

// The other operand of a product: a matrix whose `axis` has `size`.
inline void check_factor(const at::Tensor& t, int64_t axis, int64_t size, const at::Tensor& like, const char* op,
                         const char* name) {
  check_dim(t, 2, op, name);
  check_like(t, like, op, name);
  check_size(t, axis, size, op, name);
}

}  // namespace mmfast
