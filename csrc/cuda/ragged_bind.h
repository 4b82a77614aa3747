// Ragged rows as bindings take them.
#pragma once
#include "bind.h"
#include "ragged.h"

namespace mmfast {

// The starts of ragged rows, checked, contiguous.
inline at::Tensor checked_device_ptr(const at::Tensor& ptr, int64_t rows, const at::Tensor& values, const char* op,
                                     const char* name, cudaStream_t stream) {
  check_ptr_shape(ptr, rows, op, name);
  check_device(ptr, values, op, name);
  const at::Tensor dense = ptr.contiguous();
  const int64_t count = values.size(0);
  check_on_device(
      [&] { return device_check_ptr(dense.const_data_ptr<int64_t>(), rows, count, label_of(op, name), stream); },
      [&] { check_ptr(dense.cpu(), count, op, name); });
  return dense;
}

}  // namespace mmfast
