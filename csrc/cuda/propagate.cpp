// propagate, propagate_rows and propagate_backward on CUDA: Horner's rule h <- x + A h, a product per layer.
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <string_view>
#include <tuple>

#include "graph.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

enum class Readout { kMean, kSum, kLast };

Readout parse_readout(std::string_view name, const char* op) {
  if (name == "mean") return Readout::kMean;
  if (name == "sum") return Readout::kSum;
  TORCH_CHECK(name == "last", op, ": readout is '", name, "'; wanted mean, sum or last");
  return Readout::kLast;
}

void check_table(const at::Tensor& x, int64_t num_layers, const char* op, const char* name) {
  check_dim(x, 2, op, name);
  check_real(x, op, name);
  TORCH_CHECK(num_layers >= 0, op, ": num_layers is ", num_layers, "; wanted 0 or more");
}

// Calls `body` with a number of the type of the table.
template <typename Body>
void by_type(const at::Tensor& table, const Body& body) {
  table.scalar_type() == at::kDouble ? body(double()) : body(float());
}

double last_factor(Readout readout, int64_t num_layers) {
  return readout == Readout::kMean ? 1.0 / static_cast<double>(num_layers + 1) : 1.0;
}

template <typename T>
const T* data(const Optional& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

// The read-out of x at `rows` (everywhere where there are none), into `out`.
void forward(const DeviceGraphTensors& graph, const at::Tensor& x, const Optional& rows, int64_t num_layers,
             Readout readout, at::Tensor& out, cudaStream_t stream) {
  const int64_t* chosen = data<int64_t>(rows);
  const ProductWorkspace every(graph, nullptr, num_layers > 1 || !rows ? x.size(0) : 0, x, stream);
  const ProductWorkspace some(graph, chosen, rows ? out.size(0) : 0, x, stream);
  at::Tensor tables[2];  // of the layers before the last; the last of them is made only where it is needed
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    DeviceProduct<T> p{graph.view<T>(), data<T>(x)};
    p.dim = x.size(1);
    if (readout != Readout::kLast) p.base = p.in;
    for (int64_t layer = 1; layer <= num_layers; ++layer) {
      const bool last = layer == num_layers;
      at::Tensor& table = tables[layer % 2];
      const bool reuse = !rows && (num_layers - layer) % 2 == 0;  // the result itself serves as every other table
      if (!last && !reuse && !table.defined()) table = at::empty_like(x);
      p.out = static_cast<T*>((last || reuse ? out : table).mutable_data_ptr());
      p.rows = last ? chosen : nullptr;
      p.count = p.rows ? out.size(0) : x.size(0);
      p.alpha = static_cast<T>(last ? last_factor(readout, num_layers) : 1);
      check(run_product(p, (p.rows ? some : every).data(), stream));
      p.in = p.out;
    }
  });
}

void backward(const DeviceGraphTensors& graph, const at::Tensor& grad, const Optional& grad_input,
              const Optional& slots, int64_t num_layers, Readout readout, at::Tensor& out, cudaStream_t stream) {
  const ProductWorkspace workspace(graph, nullptr, out.size(0), grad, stream);
  const at::Tensor table = num_layers > 1 ? at::empty_like(out) : at::Tensor();
  by_type(grad, [&](auto zero) {
    using T = decltype(zero);
    DeviceProduct<T> p{graph.view<T>(), data<T>(grad)};
    p.dim = grad.size(1);
    p.count = out.size(0);
    p.slot = data<int32_t>(slots);
    if (readout != Readout::kLast) p.base = p.in;
    for (int64_t layer = 1; layer <= num_layers; ++layer) {
      const bool last = layer == num_layers;
      p.out = static_cast<T*>(((num_layers - layer) % 2 == 0 ? out : table).mutable_data_ptr());
      p.sparse_in = slots && layer == 1;
      p.extra = last ? data<T>(grad_input) : nullptr;
      p.alpha = static_cast<T>(last ? last_factor(readout, num_layers) : 1);
      check(run_product(p, workspace.data(), stream));
      p.in = p.out;
    }
  });
}

at::Tensor propagate(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values, const at::Tensor&,
                     const at::Tensor&, const Optional&, const Optional& row_scale, const Optional& col_scale,
                     const at::Tensor& x, int64_t num_layers, std::string_view readout) {
  const char* op = "propagate";
  check_table(x, num_layers, op, "x");
  const Readout kind = parse_readout(readout, op);
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0), scope.stream());
  check_size(ptr, 0, x.size(0) + 1, op, "ptr");
  if (num_layers == 0) return x.clone(at::MemoryFormat::Contiguous);
  at::Tensor out = at::empty(x.sizes(), x.options());
  forward(graph, x.contiguous(), {}, num_layers, kind, out, scope.stream());
  return out;
}

std::tuple<at::Tensor, at::Tensor> propagate_rows(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                                                  const at::Tensor&, const at::Tensor&, const Optional&,
                                                  const Optional& row_scale, const Optional& col_scale,
                                                  const at::Tensor& x, const at::Tensor& rows, int64_t num_layers,
                                                  std::string_view readout) {
  const char* op = "propagate_rows";
  check_table(x, num_layers, op, "x");
  const Readout kind = parse_readout(readout, op);
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0), scope.stream());
  check_size(ptr, 0, x.size(0) + 1, op, "ptr");
  check_device(rows, x, op, "rows");
  const at::Tensor dense = x.contiguous(), nodes = checked_device_rows(rows, x.size(0), op, scope.stream());
  const at::Tensor input_rows = dense.index_select(0, nodes);
  if (num_layers == 0 || input_rows.numel() == 0) return {input_rows.clone(), input_rows};
  at::Tensor out = at::empty(input_rows.sizes(), x.options());
  forward(graph, dense, nodes, num_layers, kind, out, scope.stream());
  return {out, input_rows};
}

// Without layers the gradient is the rows themselves in a table of zeros.
at::Tensor scatter_rows(const at::Tensor& grad, const Optional& grad_input, const Optional& rows, int64_t num_nodes) {
  if (!rows) return grad.clone();
  const at::Tensor out = at::zeros({num_nodes, grad.size(1)}, grad.options());
  return out.index_copy_(0, *rows, grad_input ? at::add(grad, *grad_input) : grad);
}

Optional checked_grad_input(const Optional& grad_input, const at::Tensor& grad, const char* op) {
  if (!grad_input) return {};
  check_dtype(*grad_input, grad.scalar_type(), op, "grad_input_rows");
  check_device(*grad_input, grad, op, "grad_input_rows");
  TORCH_CHECK(grad_input->sizes() == grad.sizes(), op, ": grad_input_rows is ", grad_input->sizes(), "; wanted ",
              grad.sizes());
  return grad_input->contiguous();
}

// The operator here is the transposed one, with its own scales: row_scale belongs to the rows of ptr_t.
at::Tensor propagate_backward(const at::Tensor& ptr_t, const at::Tensor& cols_t, const Optional& values_t,
                              const Optional& row_scale, const Optional& col_scale, const at::Tensor& grad,
                              const Optional& grad_input_rows, const Optional& rows, int64_t num_layers,
                              std::string_view readout) {
  const char* op = "propagate_backward";
  check_table(grad, num_layers, op, "grad");
  const Readout kind = parse_readout(readout, op);
  const int64_t num_nodes = ptr_t.numel() - 1;
  TORCH_CHECK(rows || !grad_input_rows, op, ": grad_input_rows without rows; wanted both or neither");
  check_device(rows, grad, op, "rows");
  const DeviceScope scope(grad);
  const Optional nodes = rows ? Optional(checked_device_rows(*rows, num_nodes, op, scope.stream())) : Optional();
  check_size(grad, 0, nodes ? nodes->numel() : num_nodes, op, "grad");
  const at::Tensor dense = grad.contiguous();
  const Optional extra = checked_grad_input(grad_input_rows, grad, op);
  const DeviceGraphTensors graph(op, ptr_t, cols_t, values_t, row_scale, col_scale, grad, num_nodes, scope.stream());
  if (num_layers == 0) return scatter_rows(dense, extra, nodes, num_nodes);
  Optional slots;
  if (nodes) {
    slots = at::full({num_nodes}, -1, grad.options().dtype(at::kInt));
    check(fill_slots(data<int64_t>(nodes), nodes->numel(), slots->mutable_data_ptr<int32_t>(), scope.stream()));
  }
  at::Tensor out = at::empty({num_nodes, grad.size(1)}, grad.options());
  backward(graph, dense, extra, slots, num_layers, kind, out, scope.stream());
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("propagate", &propagate);
  m.impl("propagate_rows", &propagate_rows);
  m.impl("propagate_backward", &propagate_backward);
}

}  // namespace mmfast
