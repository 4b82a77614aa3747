// The tensors of a CSR operator, checked alike on every device; the values of ptr and cols are left to the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "check.h"
#include "csr.h"

namespace mmfast {

// An operator [R, C] against a table of C rows that it multiplies; keeps its tensors alive.
class CsrTensors {
 public:
  using Optional = std::optional<at::Tensor>;

  CsrTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
             const Optional& row_scale, const Optional& col_scale, const at::Tensor& table, int64_t num_cols)
      : op_(op), num_cols_(num_cols), ptr_(ptr.contiguous()), cols_(cols.contiguous()) {
    check_dim(ptr, 1, op, "ptr");
    check_dtype(ptr, at::kLong, op, "ptr");
    TORCH_CHECK(ptr.numel() > 0, op, ": ptr is empty; wanted a number for every row and one more");
    check_dim(cols, 1, op, "cols");
    check_dtype(cols, at::kInt, op, "cols");
    check_device(ptr, table, op, "ptr");
    check_device(cols, table, op, "cols");
    values_ = vector(values, num_entries(), table, "values");
    row_scale_ = vector(row_scale, num_rows(), table, "row_scale");
    col_scale_ = vector(col_scale, num_cols, table, "col_scale");
  }

  const int64_t* ptr() const { return ptr_.const_data_ptr<int64_t>(); }
  int64_t num_rows() const { return ptr_.numel() - 1; }
  int64_t num_entries() const { return cols_.numel(); }

  template <typename T>
  Graph<T> view() const {
    return {ptr(),
            cols_.const_data_ptr<int32_t>(),
            data<T>(values_),
            data<T>(row_scale_),
            data<T>(col_scale_),
            num_rows(),
            num_cols_,
            num_entries()};
  }

 protected:
  const char* op_;
  int64_t num_cols_;
  at::Tensor ptr_, cols_;

 private:
  at::Tensor vector(const Optional& t, int64_t size, const at::Tensor& table, const char* name) const {
    if (!t) return {};
    check_dim(*t, 1, op_, name);
    check_size(*t, 0, size, op_, name);
    check_dtype(*t, table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat, op_, name);
    check_device(*t, table, op_, name);
    return t->contiguous();
  }

  template <typename T>
  static const T* data(const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  }

  at::Tensor values_, row_scale_, col_scale_;
};

}  // namespace mmfast
