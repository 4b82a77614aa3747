// A CSR operator on the device, checked against the table it multiplies.
#pragma once
#include "../csr_tensors.h"
#include "bind.h"
#include "product.h"

namespace mmfast {

// What lies in ptr and cols is checked on the device.
class DeviceGraphTensors : public CsrTensors {
 public:
  DeviceGraphTensors(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                     const Optional& row_scale, const Optional& col_scale, const at::Tensor& table, int64_t num_cols,
                     cudaStream_t stream);
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
