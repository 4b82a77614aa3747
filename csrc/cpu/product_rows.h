// The rows of a product, for every type of table. Included by the files that compile it for their instructions.
#pragma once
#include "half.h"
#include "product.h"

namespace mmfast {
namespace {

constexpr int64_t kAhead = 24;   // entries between the prefetch of a row and its use
constexpr int64_t kChunk = 128;  // entries whose slots are looked up before any row is added

// What an entry is made of besides its row_scale. Known to the compiler in the two common cases.
enum class Weight { kAny, kColScale, kValues };

template <Weight kWeight, typename T>
MMFAST_INLINE T weight(const Graph<T>& graph, int64_t e) {
  if (kWeight == Weight::kColScale) return graph.col_scale[graph.cols[e]];
  if (kWeight == Weight::kValues) return graph.values[e];
  const T value = graph.values ? graph.values[e] : T(1);
  return graph.col_scale ? value * graph.col_scale[graph.cols[e]] : value;
}

template <typename In, int V>
MMFAST_INLINE void add_row(typename Simd<Sum<In>>::Vector (&sum)[V], Sum<In> weight, const In* x) {
  for (int v = 0; v < V; ++v) {
    typename Simd<Sum<In>>::Vector value;
    load(x + v * Simd<Sum<In>>::kLanes, value);
    sum[v] += weight * value;
  }
}

template <typename In, int V>
MMFAST_INLINE void prefetch_row(const In* x) {
  constexpr int kBytes = V * Simd<Sum<In>>::kLanes * sizeof(In);
  for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(x) + byte);
}

// Adds the rows of entries [begin, end); prefetching may look on to entry `limit`.
template <Weight kWeight, int V, typename In, typename Out>
MMFAST_INLINE void gather(const Product<In, Out>& p, int64_t begin, int64_t end, int64_t limit, int64_t column,
                          typename Simd<Sum<In>>::Vector (&sum)[V]) {
  const In* in = p.in + column;
  const int32_t* cols = p.graph.cols;
  for (int64_t e = begin; e < end; ++e) {
    if (e + kAhead < limit) prefetch_row<In, V>(in + cols[e + kAhead] * p.dim);
    add_row<In, V>(sum, weight<kWeight>(p.graph, e), in + cols[e] * p.dim);
  }
}

// The same where most rows of `in` are zero: finds the entries that meet a stored row, then adds those alone.
template <int V, typename In, typename Out>
MMFAST_INLINE void gather_sparse(const Product<In, Out>& p, int64_t begin, int64_t end, int64_t column,
                                 typename Simd<Sum<In>>::Vector (&sum)[V]) {
  int64_t entry[kChunk];
  int32_t slot[kChunk];
  while (begin < end) {
    const int64_t stop = end - begin < kChunk ? end : begin + kChunk;
    int64_t count = 0;
    for (; begin < stop; ++begin) {  // without branches: hits are rare and unpredictable
      const int32_t s = p.slot[p.graph.cols[begin]];
      entry[count] = begin;
      slot[count] = s;
      count += s >= 0;
    }
    for (int64_t i = 0; i < count; ++i) {
      add_row<In, V>(sum, weight<Weight::kAny>(p.graph, entry[i]), p.in + slot[i] * p.dim + column);
    }
  }
}

// Where row `node` of a table with a row per node, or per slot, begins; null where there is none.
template <typename In, typename Out>
MMFAST_INLINE const In* row_of(const Product<In, Out>& p, const In* table, int64_t node, int64_t column) {
  const int64_t row = p.slot ? p.slot[node] : node;
  return table && row >= 0 ? table + row * p.dim + column : nullptr;
}

// Columns [column, column + V vectors) of output row i, which belongs to `node`.
template <Weight kWeight, int V, typename In, typename Out>
MMFAST_INLINE void block(const Product<In, Out>& p, int64_t i, int64_t node, int64_t limit, int64_t column) {
  using T = Sum<In>;
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t begin = p.graph.ptr[node], end = p.graph.ptr[node + 1];
  typename Simd<T>::Vector sum[V] = {};
  if (p.sparse_in) {
    gather_sparse<V>(p, begin, end, column, sum);
  } else {
    gather<kWeight, V>(p, begin, end, p.rows ? end : limit, column, sum);
  }
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  const In* base = row_of(p, p.base, node, column);
  const In* extra = row_of(p, p.extra, node, column);
  Out* out = p.out + i * p.dim + column;
  for (int v = 0; v < V; ++v) {
    typename Simd<T>::Vector value = sum[v] * scale, other{};
    if (base) load(base + v * kLanes, other), value += p.alpha * other;
    if (extra) load(extra + v * kLanes, other), value += other;
    p.stream ? stream(out + v * kLanes, value) : store(out + v * kLanes, value);
  }
}

// The columns left over after whole vectors, one by one.
template <typename In, typename Out>
MMFAST_INLINE void tail(const Product<In, Out>& p, int64_t i, int64_t node, int64_t column) {
  using T = Sum<In>;
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  for (; column < p.dim; ++column) {
    T sum = 0;
    for (int64_t e = p.graph.ptr[node]; e < p.graph.ptr[node + 1]; ++e) {
      const int64_t row = p.sparse_in ? p.slot[p.graph.cols[e]] : p.graph.cols[e];
      if (row >= 0) sum += weight<Weight::kAny>(p.graph, e) * static_cast<T>(p.in[row * p.dim + column]);
    }
    T value = sum * scale;
    if (const In* base = row_of(p, p.base, node, column)) value += p.alpha * static_cast<T>(*base);
    if (const In* extra = row_of(p, p.extra, node, column)) value += static_cast<T>(*extra);
    p.out[i * p.dim + column] = static_cast<Out>(value);
  }
}

// Asks for the first rows of a chosen row; rows that follow each other are met by `gather` itself.
template <int V, typename In, typename Out>
MMFAST_INLINE void prefetch_next(const Product<In, Out>& p, int64_t i, int64_t last, int64_t column) {
  if (!p.rows || p.sparse_in || i + 1 >= last) return;
  const int64_t begin = p.graph.ptr[p.rows[i + 1]], end = p.graph.ptr[p.rows[i + 1] + 1];
  const int64_t stop = end - begin < kAhead ? end : begin + kAhead;
  for (int64_t e = begin; e < stop; ++e) prefetch_row<In, V>(p.in + p.graph.cols[e] * p.dim + column);
}

template <Weight kWeight, int V, typename In, typename Out>
MMFAST_INLINE void blocks(const Product<In, Out>& p, int64_t first, int64_t last, int64_t& column) {
  constexpr int64_t kWidth = V * Simd<Sum<In>>::kLanes;
  const int64_t limit = p.rows ? 0 : p.graph.ptr[last];
  for (; column + kWidth <= p.dim; column += kWidth) {
    for (int64_t i = first; i < last; ++i) {
      prefetch_next<V>(p, i, last, column);
      block<kWeight, V>(p, i, p.rows ? p.rows[i] : i, limit, column);
    }
  }
}

template <Weight kWeight, typename In, typename Out>
MMFAST_INLINE void multiply_rows(const Product<In, Out>& p, int64_t first, int64_t last) {
  int64_t column = 0;
  blocks<kWeight, 8>(p, first, last, column);
  blocks<kWeight, 4>(p, first, last, column);
  blocks<kWeight, 2>(p, first, last, column);
  blocks<kWeight, 1>(p, first, last, column);
  if (column == p.dim) return;
  for (int64_t i = first; i < last; ++i) tail(p, i, p.rows ? p.rows[i] : i, column);
}

template <typename In, typename Out>
MMFAST_INLINE void multiply_weighted(const Product<In, Out>& p, int64_t first, int64_t last) {
  if (p.graph.col_scale && !p.graph.values) return multiply_rows<Weight::kColScale>(p, first, last);
  if (p.graph.values && !p.graph.col_scale) return multiply_rows<Weight::kValues>(p, first, last);
  multiply_rows<Weight::kAny>(p, first, last);
}

}  // namespace
}  // namespace mmfast
