// Graph propagation: a read-out of E_0 .. E_L with E_{l+1} = A E_l, by Horner's rule h <- x + A h, and its gradient.
#include "../propagate.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "frontier.h"
#include "graph.h"
#include "product.h"
#include "table.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

constexpr const char* kAdvice = "take them from compact_ids";
constexpr int64_t kCacheBytes = 32 << 20;  // a larger table would not stay in the caches until it is read again

template <typename Body>
void for_type(at::ScalarType type, const Body& body) {
  switch (type) {
    case at::kDouble:
      return body(double{});
    case at::kFloat:
      return body(float{});
    case at::kBFloat16:
      return body(c10::BFloat16{});
    default:
      return body(c10::Half{});
  }
}

// One product into `out`, which has the type of the operands' tables or the type that they are summed in.
template <typename In>
void multiply_into(at::Tensor& out, const GraphTensors& graph, const Operands<In>& operands, bool check) {
  const auto run = [&](auto* data) {
    const bool whole_lines = out.size(1) * sizeof(*data) % 64 == 0 && reinterpret_cast<uintptr_t>(data) % 64 == 0;
    const bool stream = whole_lines && static_cast<int64_t>(out.nbytes()) > kCacheBytes;
    using Out = std::remove_pointer_t<decltype(data)>;
    if (!multiply(Product<In, Out>{operands, data, stream}, out.size(0), check)) graph.refuse_columns();
  };
  if (out.scalar_type() == c10::CppTypeToScalarType<In>::value) {
    run(out.mutable_data_ptr<In>());
  } else {
    run(out.mutable_data_ptr<Sum<In>>());
  }
}

// Refuses an operator with a column outside it, wherever that is: what is computed depends on the rows that are asked
// for.
template <typename T>
void check_columns(const GraphTensors& graph, const Graph<T>& view) {
  if (!columns_fit(view.cols, view.num_entries, view.num_cols)) graph.refuse_columns();
}

// The last layers before the read-out at `rows`, from the last one back: where each is needed, while that is few nodes.
template <typename T>
std::vector<Frontier> frontiers_before(const Graph<T>& graph, const int64_t* rows, int64_t count, int64_t num_layers) {
  std::vector<Frontier> found;
  for (int64_t layer = num_layers - 1; layer > 0; --layer) {
    std::optional<Frontier> frontier = columns_of_rows(graph, rows, count);
    if (!frontier) break;
    found.push_back(std::move(*frontier));
    rows = found.back().nodes.data();
    count = static_cast<int64_t>(found.back().nodes.size());
  }
  return found;
}

// The last `rows` (all where null) of the read-out of x, into `out`.
template <typename T>
void forward(const GraphTensors& graph, const at::Tensor& x, const int64_t* rows, int64_t num_layers, Readout readout,
             at::Tensor& out) {
  Operands<T> p{graph.view<Sum<T>>(), x.const_data_ptr<T>(), x.size(1)};
  if (readout != Readout::kLast) p.base = p.in;
  std::vector<Frontier> frontiers;
  const bool few = rows && num_layers > 1;
  if (few) {
    check_columns(graph, p.graph);
    frontiers = frontiers_before(p.graph, rows, out.size(0), num_layers);
  }
  const int64_t whole = num_layers - 1 - static_cast<int64_t>(frontiers.size());
  at::Tensor tables[2];  // of the layers before the last; the last of them is made only where it is needed
  const bool out_fits = !rows && out.scalar_type() == x.scalar_type();
  for (int64_t layer = 1; layer < num_layers; ++layer) {
    const Frontier* frontier = layer > whole ? &frontiers[num_layers - 1 - layer] : nullptr;
    at::Tensor& table = tables[layer % 2];
    // The result itself serves as every other table.
    if (frontier) {
      table = empty_table({static_cast<int64_t>(frontier->nodes.size()), x.size(1)}, x.options());
      p.rows = frontier->nodes.data();
    } else if (!table.defined()) {
      table = out_fits && (num_layers - layer) % 2 == 0 ? out : empty_table(x.sizes(), x.options());
    }
    multiply_into(table, graph, p, layer == 1 && !few);
    p.in = table.const_data_ptr<T>();
    p.in_slot = frontier ? frontier->slot.data() : nullptr;
  }
  p.rows = rows;
  p.alpha = last_factor<Sum<T>>(readout, num_layers);
  multiply_into(out, graph, p, num_layers == 1);
}

template <typename T>
void backward(const GraphTensors& graph, const at::Tensor& grad, const T* grad_input, const int32_t* slot,
              int64_t num_layers, Readout readout, at::Tensor& out) {
  Operands<T> p{graph.view<Sum<T>>(), grad.const_data_ptr<T>(), grad.size(1)};
  p.slot = p.in_slot = slot;
  if (readout != Readout::kLast) p.base = p.in;
  std::optional<Frontier> frontier, before;  // where a layer and the one before it are not zero
  at::Tensor tables[2];
  const bool few = slot && num_layers > 1;
  if (few) check_columns(graph, p.graph);
  for (int64_t layer = 1; layer < num_layers; ++layer) {
    frontier = p.in_slot ? rows_of_columns(p.graph, p.in_slot, p.base != nullptr) : std::nullopt;
    at::Tensor& table = tables[layer % 2];
    if (frontier) {
      table = empty_table({static_cast<int64_t>(frontier->nodes.size()), out.size(1)}, out.options());
    } else if (!table.defined() || table.sizes() != out.sizes()) {
      table = (num_layers - layer) % 2 == 0 ? out : empty_table(out.sizes(), out.options());
    }
    p.rows = frontier ? frontier->nodes.data() : nullptr;
    multiply_into(table, graph, p, layer == 1 && !few);
    p.in = table.const_data_ptr<T>();
    before = std::move(frontier);
    p.in_slot = before ? before->slot.data() : nullptr;
  }
  p.rows = nullptr;
  p.extra = grad_input;
  p.alpha = last_factor<Sum<T>>(readout, num_layers);
  multiply_into(out, graph, p, num_layers == 1);
}

void check_cpu_table(const at::Tensor& x, const char* op, const char* name) {
  check_table(x, op, name);
  TORCH_CHECK(x.scalar_type() != at::kHalf || has_half(), op, ": ", name,
              " is Half, which needs a CPU with F16C; take BFloat16 or Float");
}

at::Tensor propagate(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values, const at::Tensor&,
                     const at::Tensor&, const Optional&, const Optional& row_scale, const Optional& col_scale,
                     const at::Tensor& x, int64_t num_layers, std::string_view readout,
                     std::optional<at::ScalarType> dtype) {
  const char* op = "propagate";
  check_cpu_table(x, op, "x");
  const Readout kind = parse_readout(readout, op);
  const GraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0));
  check_layers(graph.num_rows(), x.size(0), num_layers, kind, op);
  at::Tensor out = empty_table({graph.num_rows(), x.size(1)}, result_options(x, dtype, op));
  if (num_layers == 0) return out.copy_(x);
  const at::Tensor dense = x.contiguous();
  for_type(x.scalar_type(), [&](auto zero) { forward<decltype(zero)>(graph, dense, nullptr, num_layers, kind, out); });
  return out;
}

std::tuple<at::Tensor, at::Tensor> propagate_rows(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                                                  const at::Tensor&, const at::Tensor&, const Optional&,
                                                  const Optional& row_scale, const Optional& col_scale,
                                                  const at::Tensor& x, const at::Tensor& rows, int64_t num_layers,
                                                  std::string_view readout, std::optional<at::ScalarType> dtype) {
  const char* op = "propagate_rows";
  check_cpu_table(x, op, "x");
  const Readout kind = parse_readout(readout, op);
  const GraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0));
  check_layers(graph.num_rows(), x.size(0), num_layers, kind, op);
  const at::Tensor dense = x.contiguous(), nodes = checked_rows(rows, graph.num_rows(), op, kAdvice);
  const at::TensorOptions options = result_options(x, dtype, op);
  // The rows of an operator that is not square are not rows of x.
  const bool square = graph.num_rows() == x.size(0);
  const at::Tensor input_rows = square ? dense.index_select(0, nodes) : at::empty({0, x.size(1)}, x.options());
  at::Tensor out = empty_table({nodes.numel(), x.size(1)}, options);
  if (num_layers == 0) return {out.copy_(input_rows), input_rows};
  if (out.numel() == 0) return {out, input_rows};
  for_type(x.scalar_type(), [&](auto zero) {
    forward<decltype(zero)>(graph, dense, nodes.const_data_ptr<int64_t>(), num_layers, kind, out);
  });
  return {out, input_rows};
}

// node -> its place among `rows`, -1 where it is none of them.
at::Tensor slots_of(const at::Tensor& rows, int64_t num_nodes) {
  at::Tensor slots = at::full({num_nodes}, -1, rows.options().dtype(at::kInt));
  const int64_t* r = rows.const_data_ptr<int64_t>();
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < rows.numel(); ++i) slot[r[i]] = static_cast<int32_t>(i);
  return slots;
}

// The operator here is the transposed one [C, R], with its own scales: row_scale belongs to the rows of ptr_t.
at::Tensor propagate_backward(const at::Tensor& ptr_t, const at::Tensor& cols_t, const Optional& values_t,
                              const Optional& row_scale, const Optional& col_scale, const at::Tensor& grad,
                              const Optional& grad_input_rows, const Optional& rows, int64_t num_rows,
                              int64_t num_layers, std::string_view readout) {
  const char* op = "propagate_backward";
  check_cpu_table(grad, op, "grad");
  const Readout kind = parse_readout(readout, op);
  const GraphTensors graph(op, ptr_t, cols_t, values_t, row_scale, col_scale, grad, num_rows);
  check_layers(graph.num_rows(), num_rows, num_layers, kind, op);
  const Optional nodes = rows ? Optional(checked_rows(*rows, num_rows, op, kAdvice)) : Optional();
  check_size(grad, 0, nodes ? nodes->numel() : num_rows, op, "grad");
  const at::Tensor dense = grad.contiguous();
  TORCH_CHECK(rows || !grad_input_rows, op, ": grad_input_rows without rows; wanted both or neither");
  const Optional extra = checked_grad_input(grad_input_rows, grad, graph.num_rows() == num_rows, op);
  if (num_layers == 0) return scatter_rows(dense, extra, nodes, num_rows);
  at::Tensor out = empty_table({graph.num_rows(), grad.size(1)}, grad.options());
  const at::Tensor slots = nodes ? slots_of(*nodes, num_rows) : at::Tensor();
  for_type(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    backward<T>(graph, dense, extra ? extra->const_data_ptr<T>() : nullptr,
                nodes ? slots.const_data_ptr<int32_t>() : nullptr, num_layers, kind, out);
  });
  return out;
}

at::Tensor propagate_step(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                          const Optional& row_scale, const Optional& col_scale, const at::Tensor& x,
                          const Optional& base, double alpha) {
  const char* op = "propagate_step";
  check_cpu_table(x, op, "x");
  const GraphTensors graph(op, ptr, cols, values, row_scale, col_scale, x, x.size(0));
  const at::Tensor dense = x.contiguous(), own = base ? base->contiguous() : at::Tensor();
  at::Tensor out = empty_table({graph.num_rows(), x.size(1)}, x.options());
  if (base) {
    check_dtype(own, x.scalar_type(), op, "base");
    TORCH_CHECK(own.sizes() == out.sizes(), op, ": base is ", own.sizes(), "; wanted ", out.sizes());
  }
  for_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Operands<T> p{graph.view<Sum<T>>(), dense.const_data_ptr<T>(), x.size(1)};
    p.base = base ? own.const_data_ptr<T>() : nullptr;
    p.alpha = static_cast<Sum<T>>(alpha);
    multiply_into(out, graph, p, true);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("propagate", &propagate);
  m.impl("propagate_rows", &propagate_rows);
  m.impl("propagate_backward", &propagate_backward);
  m.impl("propagate_step", &propagate_step);
}

}  // namespace mmfast
