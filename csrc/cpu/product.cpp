// Products divided over the threads, and their rows for every type of table but float16.
#include "product.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "product_rows.h"

namespace mmfast {

MMFAST_CLONES void multiply_range(const Product<float>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}
MMFAST_CLONES void multiply_range(const Product<double>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}
MMFAST_CLONES void multiply_range(const Product<c10::BFloat16>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}
MMFAST_CLONES void multiply_range(const Product<c10::BFloat16, float>& p, int64_t first, int64_t last) {
  multiply_rows(p, first, last);
}

namespace {

template <typename In>
constexpr int64_t kColumns = 8 * Simd<Sum<In>>::kLanes;  // computed at a time, as many as the widest loop takes

// Entries before each of the chosen rows, as a ptr counts them before each of all rows.
std::vector<int64_t> entries_before(const int64_t* ptr, const int64_t* rows, int64_t count) {
  std::vector<int64_t> before(count + 1, 0);
  for (int64_t i = 0; i < count; ++i) before[i + 1] = before[i] + ptr[rows[i] + 1] - ptr[rows[i]];
  return before;
}

// Whether the columns of rows [first, last) lie inside the table.
template <typename T>
bool rows_fit(const Graph<T>& graph, const int64_t* rows, int64_t first, int64_t last) {
  if (!rows) return columns_fit(graph.cols + graph.ptr[first], graph.ptr[last] - graph.ptr[first], graph.num_cols);
  bool fit = true;
  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = graph.ptr[rows[i]], end = graph.ptr[rows[i] + 1];
    fit &= columns_fit(graph.cols + begin, end - begin, graph.num_cols);
  }
  return fit;
}

// The product of columns [begin, end) of the tables.
template <typename In, typename Out>
Product<In, Out> columns_of(Product<In, Out> p, int64_t begin, int64_t end) {
  if (p.in) p.in += begin;  // a table without rows has no address
  if (p.base) p.base += begin;
  if (p.extra) p.extra += begin;
  if (p.out) p.out += begin;
  p.width = end - begin;
  return p;
}

}  // namespace

template <typename In, typename Out>
bool multiply(const Product<In, Out>& p, int64_t count, bool check) {
  std::vector<int64_t> before;
  if (p.rows) before = entries_before(p.graph.ptr, p.rows, count);
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(p.rows ? before.data() : p.graph.ptr, count, threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
  const int64_t num_blocks = std::max<int64_t>(1, (p.dim + kColumns<In> - 1) / kColumns<In>);
  std::atomic<bool> fit{true};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t task = 0; task < num_blocks * num_pieces; ++task) {
    const int64_t piece = task % num_pieces, column = task / num_pieces * kColumns<In>;
    // Checked where they are about to be read, and then lie in the cache.
    if (check && !rows_fit(p.graph, p.rows, bounds[piece], bounds[piece + 1])) {
      fit.store(false, std::memory_order_relaxed);
    } else {
      multiply_range(columns_of(p, column, std::min(p.dim, column + kColumns<In>)), bounds[piece], bounds[piece + 1]);
    }
  }
  return fit.load();
}

template bool multiply(const Product<float>& p, int64_t count, bool check);
template bool multiply(const Product<double>& p, int64_t count, bool check);
template bool multiply(const Product<c10::BFloat16>& p, int64_t count, bool check);
template bool multiply(const Product<c10::BFloat16, float>& p, int64_t count, bool check);
template bool multiply(const Product<c10::Half>& p, int64_t count, bool check);
template bool multiply(const Product<c10::Half, float>& p, int64_t count, bool check);

}  // namespace mmfast
