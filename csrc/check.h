// Argument checks whose message is: op, argument, got, wanted.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string>

namespace mmfast {

inline void check_dim(const at::Tensor& t, int64_t dim, const char* op, const char* name) {
  TORCH_CHECK(t.dim() == dim, op, ": ", name, " has ", t.dim(), " dimensions; wanted ", dim);
}

inline void check_dtype(const at::Tensor& t, at::ScalarType type, const char* op, const char* name) {
  TORCH_CHECK(t.scalar_type() == type, op, ": ", name, " is ", t.scalar_type(), "; wanted ", type);
}

// Every tensor that a kernel reads must lie on the device of the first.
inline void check_device(const at::Tensor& t, const at::Tensor& like, const char* op, const char* name) {
  TORCH_CHECK(t.device() == like.device(), op, ": ", name, " is on ", t.device(), "; wanted ", like.device());
}

inline void check_like(const at::Tensor& t, const at::Tensor& like, const char* op, const char* name) {
  check_dtype(t, like.scalar_type(), op, name);
  check_device(t, like, op, name);
}

// float32 and float64 are the types every CPU kernel serves.
inline void check_real(const at::Tensor& t, const char* op, const char* name) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble, op, ": ", name, " is ", t.scalar_type(),
              "; wanted Float or Double");
}

inline void check_size(const at::Tensor& t, int64_t axis, int64_t size, const char* op, const char* name) {
  TORCH_CHECK(t.size(axis) == size, op, ": ", name, " has size ", t.size(axis), " along axis ", axis, "; wanted ",
              size);
}

inline void check_number(int64_t number, int64_t least, int64_t most, const char* op, const char* name) {
  TORCH_CHECK(number >= least && number <= most, op, ": ", name, " is ", number, "; wanted ", least, " to ", most);
}

// Ids must lie in [0, size): a wild id would read foreign memory.
void check_ids(const at::Tensor& ids, int64_t size, const char* op, const char* name);

// `rows` on the CPU, contiguous: int64 ids in [0, size), sorted and unique.
at::Tensor checked_rows(const at::Tensor& rows, int64_t size, const char* op, const char* advice);

}  // namespace mmfast
