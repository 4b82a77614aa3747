// A CSR operator on the device, checked against the table it multiplies.
#pragma once
#include "bind.h"
#include "product.h"

namespace mmfast {

// Checks an operator [R, C] against a table with C rows of `values_type` sums, and keeps its tensors alive.
class DeviceGraphTensors {
 public:
  DeviceGraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols,
                     const std::optional<at::Tensor>& values, const std::optional<at::Tensor>& row_scale,
                     const std::optional<at::Tensor>& col_scale, const at::Tensor& table, int64_t num_cols,
                     cudaStream_t stream);

  const int64_t* ptr() const { return ptr_.const_data_ptr<int64_t>(); }
  int64_t num_rows() const { return ptr_.numel() - 1; }
  int64_t num_entries() const { return cols_.numel(); }

  template <typename T>
  DeviceGraph<T> view() const {
    return {ptr(),
            cols_.const_data_ptr<int32_t>(),
            data<T>(values_),
            data<T>(row_scale_),
            data<T>(col_scale_),
            num_rows(),
            num_entries()};
  }

 private:
  template <typename T>
  static const T* data(const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  }

  at::Tensor ptr_, cols_, values_, row_scale_, col_scale_;
};

// Room for the long rows of every product of `table` at `count` rows (the first ones where null), planned once.
class ProductWorkspace {
 public:
  ProductWorkspace(const DeviceGraphTensors& graph, const int64_t* rows, int64_t count, const at::Tensor& table,
                   cudaStream_t stream);
  void* data() const { return bytes_.defined() ? bytes_.mutable_data_ptr() : nullptr; }

 private:
  at::Tensor bytes_;
};

}  // namespace mmfast
