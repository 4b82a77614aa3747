// Graph propagation: a read-out of E_0 .. E_L with E_{l+1} = A E_l, by Horner's rule h <- x + A h, and its gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "../check.h"
#include "graph.h"
#include "simd.h"
#include "table.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

constexpr int64_t kAhead = 24;   // entries between the prefetch of a row and its use
constexpr int64_t kChunk = 128;  // entries whose slots are looked up before any row is added

// One product, row by row: out = alpha * (base + A in) + extra.
template <typename T>
struct Product {
  Graph<T> graph;
  const T* in;                    // a row per node, or per slot where `sparse_in`
  const T* base = nullptr;        // a row per node, or per slot where `slot`; null: zero
  const T* extra = nullptr;       // a row per slot; null: zero
  const int32_t* slot = nullptr;  // node -> row of a compact table, -1 where that row is zero
  const int64_t* rows = nullptr;  // nodes to compute; null: all of them
  T* out = nullptr;
  T alpha = 1;
  int64_t dim = 0;
  bool sparse_in = false;
};

template <typename T, int V>
MMFAST_INLINE void add_row(typename Simd<T>::Vector (&sum)[V], T weight, const T* x) {
  for (int v = 0; v < V; ++v) sum[v] += weight * Simd<T>::at(x + v * Simd<T>::kLanes);
}

template <int V>
MMFAST_INLINE void prefetch_row(const void* x) {
  for (int byte = 0; byte < V * 32; byte += 64) __builtin_prefetch(static_cast<const char*>(x) + byte);
}

// Adds the rows of entries [begin, end); prefetching may look on to entry `limit`.
template <typename T, int V>
MMFAST_INLINE void gather(const Product<T>& p, int64_t begin, int64_t end, int64_t limit, int64_t column,
                          typename Simd<T>::Vector (&sum)[V]) {
  const T* in = p.in + column;
  for (int64_t e = begin; e < end; ++e) {
    if (e + kAhead < limit) prefetch_row<V>(in + p.graph.cols[e + kAhead] * p.dim);
    add_row<T, V>(sum, p.graph.weight(e), in + p.graph.cols[e] * p.dim);
  }
}

// The same where most rows of `in` are zero: finds the entries that meet a stored row, then adds those alone.
template <typename T, int V>
MMFAST_INLINE void gather_sparse(const Product<T>& p, int64_t begin, int64_t end, int64_t column,
                                 typename Simd<T>::Vector (&sum)[V]) {
  int64_t entry[kChunk];
  int32_t slot[kChunk];
  while (begin < end) {
    const int64_t stop = std::min(end, begin + kChunk);
    int64_t count = 0;
    for (; begin < stop; ++begin) {  // without branches: hits are rare and unpredictable
      const int32_t s = p.slot[p.graph.cols[begin]];
      entry[count] = begin;
      slot[count] = s;
      count += s >= 0;
    }
    for (int64_t i = 0; i < count; ++i) add_row<T, V>(sum, p.graph.weight(entry[i]), p.in + slot[i] * p.dim + column);
  }
}

// Columns [column, column + V vectors) of output row i, which belongs to `node`.
template <typename T, int V>
MMFAST_INLINE void block(const Product<T>& p, int64_t i, int64_t node, int64_t column) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t begin = p.graph.ptr[node], end = p.graph.ptr[node + 1];
  typename Simd<T>::Vector sum[V] = {};
  if (p.sparse_in) {
    gather_sparse<T, V>(p, begin, end, column, sum);
  } else {
    gather<T, V>(p, begin, end, p.rows ? end : p.graph.num_entries, column, sum);
  }
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  const int64_t base_row = p.slot ? p.slot[node] : node;
  const T* base = p.base && base_row >= 0 ? p.base + base_row * p.dim + column : nullptr;
  const T* extra = p.extra && base_row >= 0 ? p.extra + base_row * p.dim + column : nullptr;
  T* out = p.out + i * p.dim + column;
  for (int v = 0; v < V; ++v) {
    typename Simd<T>::Vector value = sum[v] * scale;
    if (base) value += p.alpha * Simd<T>::at(base + v * kLanes);
    if (extra) value += Simd<T>::at(extra + v * kLanes);
    Simd<T>::at(out + v * kLanes) = value;
  }
}

// The columns left over after whole vectors, one by one.
template <typename T>
MMFAST_INLINE void tail(const Product<T>& p, int64_t i, int64_t node, int64_t column) {
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  const int64_t base_row = p.slot ? p.slot[node] : node;
  for (; column < p.dim; ++column) {
    T sum = 0;
    for (int64_t e = p.graph.ptr[node]; e < p.graph.ptr[node + 1]; ++e) {
      const int64_t row = p.sparse_in ? p.slot[p.graph.cols[e]] : p.graph.cols[e];
      if (row >= 0) sum += p.graph.weight(e) * p.in[row * p.dim + column];
    }
    T value = sum * scale;
    if (p.base && base_row >= 0) value += p.alpha * p.base[base_row * p.dim + column];
    if (p.extra && base_row >= 0) value += p.extra[base_row * p.dim + column];
    p.out[i * p.dim + column] = value;
  }
}

template <typename T>
MMFAST_INLINE void prefetch_next(const Product<T>& p, int64_t i, int64_t last) {
  if (!p.rows || p.sparse_in || i + 1 >= last) return;  // rows that follow each other are met by `gather` itself
  const int64_t next = p.rows[i + 1];
  const int64_t stop = std::min(p.graph.ptr[next + 1], p.graph.ptr[next] + kAhead);
  for (int64_t e = p.graph.ptr[next]; e < stop; ++e) prefetch_row<8>(p.in + p.graph.cols[e] * p.dim);
}

template <typename T>
MMFAST_INLINE void multiply_rows(const Product<T>& p, int64_t first, int64_t last) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t i = first; i < last; ++i) {
    const int64_t node = p.rows ? p.rows[i] : i;
    int64_t column = 0;
    prefetch_next(p, i, last);
    for (; column + 8 * kLanes <= p.dim; column += 8 * kLanes) block<T, 8>(p, i, node, column);
    if (column + 4 * kLanes <= p.dim) block<T, 4>(p, i, node, column), column += 4 * kLanes;
    if (column + 2 * kLanes <= p.dim) block<T, 2>(p, i, node, column), column += 2 * kLanes;
    if (column + kLanes <= p.dim) block<T, 1>(p, i, node, column), column += kLanes;
    if (column < p.dim) tail(p, i, node, column);
  }
}

MMFAST_CLONES void multiply_range(const Product<float>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}
MMFAST_CLONES void multiply_range(const Product<double>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}

// Computes `count` rows. Pieces hold about equal work; each row is summed by one thread in the order of its entries,
// so the bits depend neither on the pieces nor on the threads.
template <typename T>
void multiply(Product<T> p, int64_t count) {
  std::vector<int64_t> prefix;
  if (p.rows) {
    prefix.assign(count + 1, 0);
    for (int64_t i = 0; i < count; ++i) {
      prefix[i + 1] = prefix[i] + p.graph.ptr[p.rows[i] + 1] - p.graph.ptr[p.rows[i]];
    }
  }
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(p.rows ? prefix.data() : p.graph.ptr, count, threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t piece = 0; piece < num_pieces; ++piece) multiply_range(p, bounds[piece], bounds[piece + 1]);
}

enum class Readout { kMean, kSum, kLast };

Readout parse_readout(std::string_view name, const char* op) {
  if (name == "mean") return Readout::kMean;
  if (name == "sum") return Readout::kSum;
  TORCH_CHECK(name == "last", op, ": readout is '", name, "'; wanted mean, sum or last");
  return Readout::kLast;
}

template <typename T>
T last_factor(Readout readout, int64_t num_layers) {
  return readout == Readout::kMean ? T(1) / static_cast<T>(num_layers + 1) : T(1);
}

// The last `rows` (all where null) of the read-out of x, into `out`.
template <typename T>
void forward(const Graph<T>& graph, const at::Tensor& x, const int64_t* rows, int64_t num_layers, Readout readout,
             at::Tensor& out) {
  Product<T> p{graph, x.const_data_ptr<T>()};
  p.dim = x.size(1);
  if (readout != Readout::kLast) p.base = x.const_data_ptr<T>();
  at::Tensor tables[2];  // of the layers before the last; the last of them is made only where it is needed
  for (int64_t layer = 1; layer <= num_layers; ++layer) {
    const bool last = layer == num_layers;
    at::Tensor& table = tables[layer % 2];
    const bool reuse = !rows && (num_layers - layer) % 2 == 0;  // the result itself serves as every other table
    if (!last && !reuse && !table.defined()) table = empty_table(x.sizes(), x.options());
    p.out = last || reuse ? out.mutable_data_ptr<T>() : table.mutable_data_ptr<T>();
    p.rows = last ? rows : nullptr;
    p.alpha = last ? last_factor<T>(readout, num_layers) : T(1);
    multiply(p, p.rows ? out.size(0) : x.size(0));
    p.in = p.out;
  }
}

template <typename T>
void backward(const Graph<T>& graph, const at::Tensor& grad, const T* grad_input, const int32_t* slot,
              int64_t num_layers, Readout readout, at::Tensor& out) {
  Product<T> p{graph, grad.const_data_ptr<T>()};
  p.dim = grad.size(1);
  p.slot = slot;
  if (readout != Readout::kLast) p.base = grad.const_data_ptr<T>();
  at::Tensor table = num_layers > 1 ? empty_table(out.sizes(), out.options()) : at::Tensor();
  for (int64_t layer = 1; layer <= num_layers; ++layer) {
    const bool last = layer == num_layers;
    p.out = (num_layers - layer) % 2 == 0 ? out.mutable_data_ptr<T>() : table.mutable_data_ptr<T>();
    p.sparse_in = slot && layer == 1;
    p.extra = last ? grad_input : nullptr;
    p.alpha = last ? last_factor<T>(readout, num_layers) : T(1);
    multiply(p, out.size(0));
    p.in = p.out;
  }
}

at::Tensor checked_rows(const at::Tensor& rows, int64_t num_nodes, const char* op) {
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  const at::Tensor dense = rows.contiguous();
  check_ids(dense, num_nodes, op, "rows");
  const int64_t* r = dense.const_data_ptr<int64_t>();
  TORCH_CHECK(std::adjacent_find(r, r + dense.numel(), std::greater_equal<>()) == r + dense.numel(), op,
              ": rows are not sorted and unique; take them from compact_ids");
  return dense;
}

void check_table(const at::Tensor& x, int64_t num_layers, const char* op, const char* name) {
  check_dim(x, 2, op, name);
  check_real(x, op, name);
  TORCH_CHECK(num_layers >= 0, op, ": num_layers is ", num_layers, "; wanted 0 or more");
}

at::Tensor propagate(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values, const at::Tensor&,
                     const at::Tensor&, const Optional&, const Optional& row_scale, const Optional& col_scale,
                     const at::Tensor& x, int64_t num_layers, std::string_view readout) {
  check_table(x, num_layers, "propagate", "x");
  const Readout kind = parse_readout(readout, "propagate");
  const GraphTensors graph("propagate", ptr, cols, values, row_scale, col_scale, x);
  if (num_layers == 0) return x.clone(at::MemoryFormat::Contiguous);
  const at::Tensor dense = x.contiguous();
  at::Tensor out = empty_table(x.sizes(), x.options());
  if (x.scalar_type() == at::kFloat) {
    forward<float>(graph.view<float>(), dense, nullptr, num_layers, kind, out);
  } else {
    forward<double>(graph.view<double>(), dense, nullptr, num_layers, kind, out);
  }
  return out;
}

std::tuple<at::Tensor, at::Tensor> propagate_rows(const at::Tensor& ptr, const at::Tensor& cols, const Optional& values,
                                                  const at::Tensor&, const at::Tensor&, const Optional&,
                                                  const Optional& row_scale, const Optional& col_scale,
                                                  const at::Tensor& x, const at::Tensor& rows, int64_t num_layers,
                                                  std::string_view readout) {
  check_table(x, num_layers, "propagate_rows", "x");
  const Readout kind = parse_readout(readout, "propagate_rows");
  const GraphTensors graph("propagate_rows", ptr, cols, values, row_scale, col_scale, x);
  const at::Tensor dense = x.contiguous(), nodes = checked_rows(rows, x.size(0), "propagate_rows");
  const at::Tensor input_rows = dense.index_select(0, nodes);
  if (num_layers == 0 || input_rows.numel() == 0) return {input_rows.clone(), input_rows};
  at::Tensor out = empty_table(input_rows.sizes(), x.options());
  const int64_t* r = nodes.const_data_ptr<int64_t>();
  if (x.scalar_type() == at::kFloat) {
    forward<float>(graph.view<float>(), dense, r, num_layers, kind, out);
  } else {
    forward<double>(graph.view<double>(), dense, r, num_layers, kind, out);
  }
  return {out, input_rows};
}

// Without layers the gradient is the rows themselves in a table of zeros.
at::Tensor scatter_rows(const at::Tensor& grad, const Optional& grad_input, const Optional& rows, int64_t num_nodes) {
  if (!rows) return grad.clone();
  at::Tensor out = empty_table({num_nodes, grad.size(1)}, grad.options()).zero_();
  return out.index_copy_(0, *rows, grad_input ? at::add(grad, *grad_input) : grad);
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
  const Optional nodes = rows ? Optional(checked_rows(*rows, num_nodes, op)) : Optional();
  check_size(grad, 0, nodes ? nodes->numel() : num_nodes, op, "grad");
  const at::Tensor dense = grad.contiguous();
  const Optional extra = grad_input_rows ? Optional(grad_input_rows->contiguous()) : Optional();
  if (extra) {
    check_dtype(*extra, grad.scalar_type(), op, "grad_input_rows");
    TORCH_CHECK(extra->sizes() == grad.sizes(), op, ": grad_input_rows is ", extra->sizes(), "; wanted ", grad.sizes());
  }
  at::Tensor out = empty_table({num_nodes, grad.size(1)}, grad.options());
  const GraphTensors graph(op, ptr_t, cols_t, values_t, row_scale, col_scale, out);
  if (num_layers == 0) return scatter_rows(dense, extra, nodes, num_nodes);
  at::Tensor slots;
  if (nodes) {
    slots = at::full({num_nodes}, -1, grad.options().dtype(at::kInt));
    const int64_t* r = nodes->const_data_ptr<int64_t>();
    int32_t* slot = slots.mutable_data_ptr<int32_t>();
    for (int64_t i = 0; i < nodes->numel(); ++i) slot[r[i]] = static_cast<int32_t>(i);
  }
  const int32_t* slot = nodes ? slots.const_data_ptr<int32_t>() : nullptr;
  if (grad.scalar_type() == at::kFloat) {
    backward<float>(graph.view<float>(), dense, extra ? extra->const_data_ptr<float>() : nullptr, slot, num_layers,
                    kind, out);
  } else {
    backward<double>(graph.view<double>(), dense, extra ? extra->const_data_ptr<double>() : nullptr, slot, num_layers,
                     kind, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("propagate", &propagate);
  m.impl("propagate_rows", &propagate_rows);
  m.impl("propagate_backward", &propagate_backward);
}

}  // namespace mmfast
