// Products divided over the threads, and their rows for every type of table but float16.
#include "product.h"

#include <ATen/Parallel.h>

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

}  // namespace

template <typename In, typename Out>
bool multiply(const Product<In, Out>& p, int64_t count, bool check) {
  std::vector<int64_t> before;
  if (p.rows) before = entries_before(p.graph.ptr, p.rows, count);
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(p.rows ? before.data() : p.graph.ptr, count, threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
  std::atomic<bool> fit{true};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t piece = 0; piece < num_pieces; ++piece) {
    // Checked where they are about to be read, and then lie in the cache.
    if (check && !rows_fit(p.graph, p.rows, bounds[piece], bounds[piece + 1])) {
      fit.store(false, std::memory_order_relaxed);
    } else {
      multiply_range(p, bounds[piece], bounds[piece + 1]);
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
