// The propagate ops on CUDA: Horner's rule h <- x + A h, a product per layer, and its gradients.
#include "../propagate.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>

#include <string_view>
#include <tuple>

#include "graph.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

// Calls body(In, Out), numbers of the types of the table and of the result.
template <typename Body>
void for_types(at::ScalarType in, at::ScalarType out, const Body& body) {
  if (in == at::kDouble) return body(double(), double());
  if (in == at::kFloat) return body(float(), float());
  if (in == at::kHalf) return out == in ? body(Half(), Half()) : body(Half(), float());
  out == in ? body(BFloat16(), BFloat16()) : body(BFloat16(), float());
}

template <typename T>
const T* data(const Optional& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

// What a product reads besides the graph; DeviceProduct tells the names.
struct Operands {
  at::Tensor in;
  Optional base = {}, extra = {}, slots = {}, rows = {};
  double alpha = 1;
  bool sparse_in = false;
};

void multiply(const DeviceGraphTensors& graph, const Operands& o, const ProductWorkspace& workspace, at::Tensor& out,
              cudaStream_t stream) {
  for_types(o.in.scalar_type(), out.scalar_type(), [&](auto in, auto result) {
    using In = decltype(in);
    using Out = decltype(result);
    DeviceProduct<In, Out> p{graph.view<Sum<In>>(), data<In>(o.in)};
    p.base = data<In>(o.base);
    p.extra = data<In>(o.extra);
    p.slot = data<int32_t>(o.slots);
    p.rows = data<int64_t>(o.rows);
    p.out = static_cast<Out*>(out.mutable_data_ptr());
    p.count = out.size(0);
    p.dim = out.size(1);
    p.alpha = static_cast<Sum<In>>(o.alpha);
    p.sparse_in = o.sparse_in;
    check(run_product(p, workspace.data(), stream));
  });
}

// The read-out of x at `rows` (everywhere where there are none), into `out`.
void forward(const DeviceGraphTensors& graph, const at::Tensor& x, const Optional& rows, int64_t num_layers,
             Readout readout, at::Tensor& out, cudaStream_t stream) {
  const bool all_layers = num_layers > 1 || !rows;
  const ProductWorkspace every(graph, nullptr, all_layers ? graph.num_rows() : 0, x, stream);
  const ProductWorkspace some(graph, data<int64_t>(rows), rows ? out.size(0) : 0, x, stream);
  Operands o{x};
  if (readout != Readout::kLast) o.base = x;
  at::Tensor tables[2];  // of the layers before the last; the last of them is made only where it is needed
  const bool out_fits = !rows && out.scalar_type() == x.scalar_type();
  for (int64_t layer = 1; layer < num_layers; ++layer) {
    at::Tensor& table = tables[layer % 2];
    // The result itself serves as every other table.
    if (!table.defined()) table = out_fits && (num_layers - layer) % 2 == 0 ? out : at::empty_like(x);
    multiply(graph, o, every, table, stream);
    o.in = table;
  }
  o.rows = rows;
  o.alpha = last_factor<double>(readout, num_layers);
  multiply(graph, o, rows ? some : every, out, stream);
}

void backward(const DeviceGraphTensors& graph, const at::Tensor& grad, const Optional& grad_input,
              const Optional& slots, int64_t num_layers, Readout readout, at::Tensor& out, cudaStream_t stream) {
  const ProductWorkspace workspace(graph, nullptr, graph.num_rows(), grad, stream);
  Operands o{grad};
  o.slots = slots;
  if (readout != Readout::kLast) o.base = grad;
  at::Tensor other = num_layers > 1 ? at::empty_like(out) : at::Tensor();
  for (int64_t layer = 1; layer <= num_layers; ++layer) {
    const bool last = layer == num_layers;
    at::Tensor& table = (num_layers - layer) % 2 == 0 ? out : other;
    o.sparse_in = slots && layer == 1;
    o.extra = last ? grad_input : Optional();
    o.alpha = last ? last_factor<double>(readout, num_layers) : 1.0;
    multiply(graph, o, workspace, table, stream);
    o.in = table;
  }
}

at::Tensor propagate(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values, const at::Tensor&,
                     const at::Tensor&, const Optional&, const Optional& row_scale, const Optional& col_scale,
                     const at::Tensor& x, int64_t num_layers, std::string_view readout,
                     std::optional<at::ScalarType> dtype) {
  const char* op = "propagate";
  check_table(x, op, "x");
  const Readout kind = parse_readout(readout, op);
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0), scope.stream());
  check_layers(graph.num_rows(), x.size(0), num_layers, kind, op);
  at::Tensor out = at::empty({graph.num_rows(), x.size(1)}, result_options(x, dtype, op));
  if (num_layers == 0) return out.copy_(x);
  forward(graph, x.contiguous(), {}, num_layers, kind, out, scope.stream());
  return out;
}

std::tuple<at::Tensor, at::Tensor> propagate_rows(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                                                  const at::Tensor&, const at::Tensor&, const Optional&,
                                                  const Optional& row_scale, const Optional& col_scale,
                                                  const at::Tensor& x, const at::Tensor& rows, int64_t num_layers,
                                                  std::string_view readout, std::optional<at::ScalarType> dtype) {
  const char* op = "propagate_rows";
  check_table(x, op, "x");
  check_device(rows, x, op, "rows");
  const Readout kind = parse_readout(readout, op);
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0), scope.stream());
  check_layers(graph.num_rows(), x.size(0), num_layers, kind, op);
  const at::Tensor dense = x.contiguous(), nodes = checked_device_rows(rows, graph.num_rows(), op, scope.stream());
  // The rows of an operator that is not square are not rows of x.
  const bool square = graph.num_rows() == x.size(0);
  const at::Tensor input_rows = square ? dense.index_select(0, nodes) : at::empty({0, x.size(1)}, x.options());
  at::Tensor out = at::empty({nodes.numel(), x.size(1)}, result_options(x, dtype, op));
  if (num_layers == 0) return {out.copy_(input_rows), input_rows};
  forward(graph, dense, nodes, num_layers, kind, out, scope.stream());
  return {out, input_rows};
}

// node -> its place among `rows`, -1 where it is none of them.
at::Tensor slots_of(const at::Tensor& rows, int64_t num_nodes, cudaStream_t stream) {
  const at::Tensor slots = at::full({num_nodes}, -1, rows.options().dtype(at::kInt));
  check(fill_slots(rows.const_data_ptr<int64_t>(), rows.numel(), slots.mutable_data_ptr<int32_t>(), stream));
  return slots;
}

// The operator here is the transposed one [C, R], with its own scales: row_scale belongs to the rows of ptr_t.
at::Tensor propagate_backward(const at::Tensor& ptr_t, const at::Tensor& cols_t, const Optional& values_t,
                              const Optional& row_scale, const Optional& col_scale, const at::Tensor& grad,
                              const Optional& grad_input_rows, const Optional& rows, int64_t num_rows,
                              int64_t num_layers, std::string_view readout) {
  const char* op = "propagate_backward";
  check_table(grad, op, "grad");
  check_device(rows, grad, op, "rows");
  check_device(grad_input_rows, grad, op, "grad_input_rows");
  const Readout kind = parse_readout(readout, op);
  const DeviceScope scope(grad);
  const DeviceGraphTensors graph(op, ptr_t, cols_t, values_t, row_scale, col_scale, grad, num_rows, scope.stream());
  check_layers(graph.num_rows(), num_rows, num_layers, kind, op);
  const Optional nodes = rows ? Optional(checked_device_rows(*rows, num_rows, op, scope.stream())) : Optional();
  check_size(grad, 0, nodes ? nodes->numel() : num_rows, op, "grad");
  TORCH_CHECK(rows || !grad_input_rows, op, ": grad_input_rows without rows; wanted both or neither");
  const at::Tensor dense = grad.contiguous();
  const Optional extra = checked_grad_input(grad_input_rows, grad, graph.num_rows() == num_rows, op);
  if (num_layers == 0) return scatter_rows(dense, extra, nodes, num_rows);
  const Optional slots = nodes ? Optional(slots_of(*nodes, num_rows, scope.stream())) : Optional();
  at::Tensor out = at::empty({graph.num_rows(), grad.size(1)}, grad.options());
  backward(graph, dense, extra, slots, num_layers, kind, out, scope.stream());
  return out;
}

at::Tensor propagate_step(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                          const Optional& row_scale, const Optional& col_scale, const at::Tensor& x,
                          const Optional& base, double alpha) {
  const char* op = "propagate_step";
  check_table(x, op, "x");
  check_device(base, x, op, "base");
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0), scope.stream());
  at::Tensor out = at::empty({graph.num_rows(), x.size(1)}, x.options());
  Operands o{x.contiguous()};
  o.alpha = alpha;
  if (base) {
    check_dtype(*base, x.scalar_type(), op, "base");
    TORCH_CHECK(base->sizes() == out.sizes(), op, ": base is ", base->sizes(), "; wanted ", out.sizes());
    o.base = base->contiguous();
  }
  multiply(graph, o, ProductWorkspace(graph, nullptr, graph.num_rows(), x, scope.stream()), out, scope.stream());
  return out;
}

at::Tensor propagate_values_backward(const at::Tensor& ptr, const at::Tensor& cols, const Optional& row_scale,
                                     const Optional& col_scale, const at::Tensor& grad, const at::Tensor& x) {
  const char* op = "propagate_values_backward";
  check_table(x, op, "x");
  check_dim(grad, 2, op, "grad");
  check_dtype(grad, x.scalar_type(), op, "grad");
  check_device(grad, x, op, "grad");
  const DeviceScope scope(x);
  const DeviceGraphTensors graph(op, ptr, cols, {}, row_scale, col_scale, x, x.size(0), scope.stream());
  check_size(grad, 0, graph.num_rows(), op, "grad");
  check_size(grad, 1, x.size(1), op, "grad");
  const at::Tensor rows = grad.contiguous(), columns = x.contiguous();
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor out = at::empty({graph.num_entries()}, x.options().dtype(type));
  for_types(x.scalar_type(), x.scalar_type(), [&](auto in, auto) {
    using In = decltype(in);
    check(values_backward(graph.view<Sum<In>>(), data<In>(rows), data<In>(columns), x.size(1),
                          static_cast<Sum<In>*>(out.mutable_data_ptr()), scope.stream()));
  });
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("propagate", &propagate);
  m.impl("propagate_rows", &propagate_rows);
  m.impl("propagate_backward", &propagate_backward);
  m.impl("propagate_step", &propagate_step);
  m.impl("propagate_values_backward", &propagate_values_backward);
}

}  // namespace mmfast
