// Arguments of the propagate ops, checked alike on every device.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <string_view>

#include "check.h"

namespace mmfast {

enum class Readout { kMean, kSum, kLast };

inline Readout parse_readout(std::string_view name, const char* op) {
  if (name == "mean") return Readout::kMean;
  if (name == "sum") return Readout::kSum;
  TORCH_CHECK(name == "last", op, ": readout is '", name, "'; wanted mean, sum or last");
  return Readout::kLast;
}

// What the last layer of a read-out is multiplied by.
template <typename T>
T last_factor(Readout readout, int64_t num_layers) {
  return readout == Readout::kMean ? T(1) / static_cast<T>(num_layers + 1) : T(1);
}

inline void check_table(const at::Tensor& x, const char* op, const char* name) {
  const at::ScalarType type = x.scalar_type();
  check_dim(x, 2, op, name);
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf, op, ": ", name,
              " is ", type, "; wanted Float, Double, BFloat16 or Half");
}

// A table of half precision may be read out in float32; every other type gives its own.
inline at::TensorOptions result_options(const at::Tensor& x, std::optional<at::ScalarType> type, const char* op) {
  if (!type) return x.options();
  const bool wider = *type == at::kFloat && x.scalar_type() != at::kDouble;
  TORCH_CHECK(wider || *type == x.scalar_type(), op, ": dtype is ", *type, " for a table of ", x.scalar_type(),
              "; wanted the table's own type, or Float for a half table");
  return x.options().dtype(*type);
}

inline void check_layers(int64_t num_rows, int64_t num_cols, int64_t num_layers, Readout readout, const char* op) {
  TORCH_CHECK(num_layers >= 0, op, ": num_layers is ", num_layers, "; wanted 0 or more");
  TORCH_CHECK(num_rows == num_cols || (num_layers == 1 && readout == Readout::kLast), op, ": the operator is ",
              num_rows, " x ", num_cols, "; one that is not square has one layer, read out as 'last'");
}

// The gradient of the rows of x themselves, which come beside the read-out where the operator is square.
inline std::optional<at::Tensor> checked_grad_input(const std::optional<at::Tensor>& grad_input, const at::Tensor& grad,
                                                    bool square, const char* op) {
  if (!grad_input) return {};
  check_dtype(*grad_input, grad.scalar_type(), op, "grad_input_rows");
  TORCH_CHECK(grad_input->sizes() == grad.sizes() && square, op, ": grad_input_rows is ", grad_input->sizes(),
              "; wanted ", grad.sizes(), " for an operator that is square");
  return grad_input->contiguous();
}

// Without layers the gradient is the rows themselves in a table of zeros.
inline at::Tensor scatter_rows(const at::Tensor& grad, const std::optional<at::Tensor>& grad_input,
                               const std::optional<at::Tensor>& rows, int64_t num_nodes) {
  if (!rows) return grad.clone();
  const at::Tensor out = at::zeros({num_nodes, grad.size(1)}, grad.options());
  return out.index_copy_(0, *rows, grad_input ? at::add(grad, *grad_input) : grad);
}

}  // namespace mmfast
