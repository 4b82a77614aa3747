// The gradient of the stored values of a product: row_scale[r] * col_scale[c] * <grad[r], x[c]> at every entry (r, c).
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "../check.h"
#include "graph.h"
#include "simd.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

constexpr int64_t kAhead = 16;  // entries between the prefetch of a row and its use

template <typename T>
struct Dots {
  Graph<T> graph;
  const T* grad;  // [R, D]
  const T* x;     // [C, D]
  T* out;         // [E]
  int64_t dim;
};

template <typename T>
MMFAST_INLINE T dot(const T* a, const T* b, int64_t dim) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum[4] = {};
  int64_t d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
    for (int v = 0; v < 4; ++v) sum[v] += Simd<T>::at(a + d + v * kLanes) * Simd<T>::at(b + d + v * kLanes);
  }
  for (; d + kLanes <= dim; d += kLanes) sum[0] += Simd<T>::at(a + d) * Simd<T>::at(b + d);
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  T total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[0][lane];
  for (; d < dim; ++d) total += a[d] * b[d];
  return total;
}

template <typename T>
MMFAST_INLINE void dot_rows(const Dots<T>& p, int64_t first, int64_t last) {
  const Graph<T>& graph = p.graph;
  const int64_t limit = graph.ptr[last];
  for (int64_t row = first; row < last; ++row) {
    const T scale = graph.row_scale ? graph.row_scale[row] : T(1);
    for (int64_t e = graph.ptr[row]; e < graph.ptr[row + 1]; ++e) {
      if (e + kAhead < limit) {
        const char* next = reinterpret_cast<const char*>(p.x + graph.cols[e + kAhead] * p.dim);
        for (int64_t byte = 0; byte < static_cast<int64_t>(p.dim * sizeof(T)); byte += 64) {
          __builtin_prefetch(next + byte);
        }
      }
      const int64_t col = graph.cols[e];
      const T value = scale * dot(p.grad + row * p.dim, p.x + col * p.dim, p.dim);
      p.out[e] = graph.col_scale ? value * graph.col_scale[col] : value;
    }
  }
}

MMFAST_CLONES void dot_range(const Dots<float>& p, int64_t first, int64_t last) { dot_rows(p, first, last); }
MMFAST_CLONES void dot_range(const Dots<double>& p, int64_t first, int64_t last) { dot_rows(p, first, last); }

template <typename T>
void dots(const GraphTensors& graph, const at::Tensor& grad, const at::Tensor& x, at::Tensor& out) {
  const Dots<T> p{graph.view<T>(), grad.const_data_ptr<T>(), x.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                  x.size(1)};
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(p.graph.ptr, graph.num_rows(), threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
  std::atomic<bool> fit{true};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t piece = 0; piece < num_pieces; ++piece) {
    const int64_t begin = p.graph.ptr[bounds[piece]], end = p.graph.ptr[bounds[piece + 1]];
    if (columns_fit(p.graph.cols + begin, end - begin, p.graph.num_cols)) {
      dot_range(p, bounds[piece], bounds[piece + 1]);
    } else {
      fit.store(false, std::memory_order_relaxed);
    }
  }
  if (!fit) graph.refuse_columns();
}

at::Tensor propagate_values_backward(const at::Tensor& ptr, const at::Tensor& cols, const Optional& row_scale,
                                     const Optional& col_scale, const at::Tensor& grad, const at::Tensor& x) {
  const char* op = "propagate_values_backward";
  check_dim(x, 2, op, "x");
  check_dim(grad, 2, op, "grad");
  check_dtype(grad, x.scalar_type(), op, "grad");
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;  // half tables are widened
  const GraphTensors graph(op, ptr, cols, {}, row_scale, col_scale, x, x.size(0));
  check_size(grad, 0, graph.num_rows(), op, "grad");
  check_size(grad, 1, x.size(1), op, "grad");
  const at::Tensor rows = grad.to(type).contiguous(), columns = x.to(type).contiguous();
  at::Tensor out = at::empty({graph.num_entries()}, x.options().dtype(type));
  type == at::kDouble ? dots<double>(graph, rows, columns, out) : dots<float>(graph, rows, columns, out);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("propagate_values_backward", &propagate_values_backward); }

}  // namespace mmfast
