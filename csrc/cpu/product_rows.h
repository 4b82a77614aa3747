// The rows of a product, for every type of table. Included by the files that compile it for their instructions.
#pragma once
#include "half.h"
#include "product.h"

namespace mmfast {
namespace {

constexpr int64_t kAhead = 24;   // entries between the prefetch of a row and its use
constexpr int64_t kChunk = 128;  // entries whose slots are looked up before any row is added

// The three common products are known to the compiler: all rows of A, `in` with a row per node, no slots, and entries
// that are their row_scale times one, times their col_scale, or times their value. kAny is every other.
enum class Kind { kAny, kOnes, kColScale, kValues };

template <Kind kKind, typename T>
MMFAST_INLINE T weight(const Graph<T>& graph, int64_t e) {
  if (kKind == Kind::kOnes) return T(1);
  if (kKind == Kind::kColScale) return graph.col_scale[graph.cols[e]];
  if (kKind == Kind::kValues) return graph.values[e];
  const T value = graph.values ? graph.values[e] : T(1);
  return graph.col_scale ? value * graph.col_scale[graph.cols[e]] : value;
}

// V vectors of a row as they are summed: see load2.
template <typename In, int V>
MMFAST_INLINE void load_row(const In* x, typename Simd<Sum<In>>::Vector (&row)[V]) {
  if (V == 1) load(x, row[0]);
  for (int v = 0; v + 1 < V; v += 2) load2(x + v * Simd<Sum<In>>::kLanes, row[v], row[v + 1]);
}

template <typename In, int V, typename Out>
MMFAST_INLINE void store_row(Out* out, const typename Simd<Sum<In>>::Vector (&row)[V]) {
  if (V == 1) store(out, row[0]);
  for (int v = 0; v + 1 < V; v += 2) Store2<In, Out>::run(out + v * Simd<Sum<In>>::kLanes, row[v], row[v + 1]);
}

template <typename In, int V>
MMFAST_INLINE void add_row(typename Simd<Sum<In>>::Vector (&sum)[V], Sum<In> weight, const In* x) {
  typename Simd<Sum<In>>::Vector row[V];
  load_row<In, V>(x, row);
  for (int v = 0; v < V; ++v) sum[v] += weight * row[v];
}

template <typename In, int V>
MMFAST_INLINE void prefetch_row(const In* x) {
  constexpr int kBytes = V * Simd<Sum<In>>::kLanes * sizeof(In);
  for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(x) + byte);
}

// Adds the rows of entries [begin, end); prefetching may look on to entry `limit`.
template <Kind kKind, int V, typename In, typename Out>
MMFAST_INLINE void gather(const Product<In, Out>& p, int64_t begin, int64_t end, int64_t limit, int64_t column,
                          typename Simd<Sum<In>>::Vector (&sum)[V]) {
  const In* in = p.in + column;
  const int32_t* cols = p.graph.cols;
  for (int64_t e = begin; e < end; ++e) {
    if (__builtin_expect(e + kAhead < limit, 1)) prefetch_row<In, V>(in + cols[e + kAhead] * p.dim);
    add_row<In, V>(sum, weight<kKind>(p.graph, e), in + cols[e] * p.dim);
  }
}

// The same where `in` is compact and its other rows are zero: finds the entries that meet a row, then adds those alone.
template <int V, typename In, typename Out>
MMFAST_INLINE void gather_sparse(const Product<In, Out>& p, int64_t begin, int64_t end, int64_t column,
                                 typename Simd<Sum<In>>::Vector (&sum)[V]) {
  int64_t entry[kChunk];
  int32_t slot[kChunk];
  while (begin < end) {
    const int64_t stop = end - begin < kChunk ? end : begin + kChunk;
    int64_t count = 0;
    for (; begin < stop; ++begin) {  // without branches: hits are rare and unpredictable
      const int32_t s = p.in_slot[p.graph.cols[begin]];
      entry[count] = begin;
      slot[count] = s;
      count += s >= 0;
    }
    for (int64_t i = 0; i < count; ++i) {
      add_row<In, V>(sum, weight<Kind::kAny>(p.graph, entry[i]), p.in + slot[i] * p.dim + column);
    }
  }
}

// Where row `node` of a table with a row per node, or per slot, begins; null where there is none. Without a table there
// may be no slot for the node: the rows of an operator that is not square are other nodes than its columns.
template <Kind kKind, typename In, typename Out>
MMFAST_INLINE const In* row_of(const Product<In, Out>& p, const In* table, int64_t node, int64_t column) {
  if (!table) return nullptr;
  const int64_t row = kKind == Kind::kAny && p.slot ? p.slot[node] : node;
  return row >= 0 ? table + row * p.dim + column : nullptr;
}

// Columns [column, column + V vectors) of output row i, which belongs to `node`.
template <Kind kKind, int V, typename In, typename Out>
MMFAST_INLINE void block(const Product<In, Out>& p, int64_t i, int64_t node, int64_t limit, int64_t column) {
  using T = Sum<In>;
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t begin = p.graph.ptr[node], end = p.graph.ptr[node + 1];
  typename Simd<T>::Vector sum[V] = {};
  if (kKind == Kind::kAny && p.in_slot) {
    gather_sparse<V>(p, begin, end, column, sum);
  } else {
    gather<kKind, V>(p, begin, end, limit > end ? limit : end, column, sum);
  }
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  for (int v = 0; v < V; ++v) sum[v] *= scale;
  if (const In* base = row_of<kKind>(p, p.base, node, column)) add_row<In, V>(sum, p.alpha, base);
  if (const In* extra = row_of<kKind>(p, p.extra, node, column)) add_row<In, V>(sum, T(1), extra);
  Out* out = p.out + i * p.dim + column;
  if (p.stream) {
    alignas(32) Out row[V * kLanes];
    store_row<In, V>(row, sum);
    stream<sizeof(row) / 16>(out, row);
  } else {
    store_row<In, V>(out, sum);
  }
}

// The columns left over after whole vectors, one by one.
template <typename In, typename Out>
MMFAST_INLINE void tail(const Product<In, Out>& p, int64_t i, int64_t node, int64_t column) {
  using T = Sum<In>;
  const T scale = p.alpha * (p.graph.row_scale ? p.graph.row_scale[node] : T(1));
  for (; column < p.width; ++column) {
    T sum = 0;
    for (int64_t e = p.graph.ptr[node]; e < p.graph.ptr[node + 1]; ++e) {
      const int64_t row = p.in_slot ? p.in_slot[p.graph.cols[e]] : p.graph.cols[e];
      if (row >= 0) sum += weight<Kind::kAny>(p.graph, e) * static_cast<T>(p.in[row * p.dim + column]);
    }
    T value = sum * scale;
    if (const In* base = row_of<Kind::kAny>(p, p.base, node, column)) value += p.alpha * static_cast<T>(*base);
    if (const In* extra = row_of<Kind::kAny>(p, p.extra, node, column)) value += static_cast<T>(*extra);
    p.out[i * p.dim + column] = static_cast<Out>(value);
  }
}

// Asks for the first rows of a chosen row; rows that follow each other are met by `gather` itself.
template <int V, typename In, typename Out>
MMFAST_INLINE void prefetch_next(const Product<In, Out>& p, int64_t i, int64_t last, int64_t column) {
  if (p.in_slot || i + 1 >= last) return;
  const int64_t begin = p.graph.ptr[p.rows[i + 1]], end = p.graph.ptr[p.rows[i + 1] + 1];
  const int64_t stop = end - begin < kAhead ? end : begin + kAhead;
  for (int64_t e = begin; e < stop; ++e) prefetch_row<In, V>(p.in + p.graph.cols[e] * p.dim + column);
}

template <Kind kKind, int V, typename In, typename Out>
MMFAST_INLINE void blocks(const Product<In, Out>& p, int64_t first, int64_t last, int64_t& column) {
  constexpr int64_t kWidth = V * Simd<Sum<In>>::kLanes;
  const bool chosen = kKind == Kind::kAny && p.rows;
  const int64_t limit = chosen ? 0 : p.graph.ptr[last];
  for (; column + kWidth <= p.width; column += kWidth) {
    for (int64_t i = first; i < last; ++i) {
      if (chosen) prefetch_next<V>(p, i, last, column);
      block<kKind, V>(p, i, chosen ? p.rows[i] : i, limit, column);
    }
  }
}

// The columns that eight vectors at a time take up, which are most of them, by the kind of the product.
template <typename In, typename Out>
MMFAST_INLINE void wide_blocks(const Product<In, Out>& p, int64_t first, int64_t last, int64_t& column) {
  const Graph<Sum<In>>& graph = p.graph;
  if constexpr (sizeof(In) < sizeof(double)) {  // float64 is for checks, not speed
    if (!p.rows && !p.slot && !p.in_slot && !(graph.values && graph.col_scale)) {
      if (graph.values) return blocks<Kind::kValues, 8>(p, first, last, column);
      if (graph.col_scale) return blocks<Kind::kColScale, 8>(p, first, last, column);
      return blocks<Kind::kOnes, 8>(p, first, last, column);
    }
  }
  blocks<Kind::kAny, 8>(p, first, last, column);
}

template <typename In, typename Out>
MMFAST_INLINE void multiply_rows(const Product<In, Out>& product, int64_t first, int64_t last) {
  const Product<In, Out> p = product;  // a copy that no store can change
  int64_t column = 0;
  wide_blocks(p, first, last, column);
  blocks<Kind::kAny, 4>(p, first, last, column);
  blocks<Kind::kAny, 2>(p, first, last, column);
  blocks<Kind::kAny, 1>(p, first, last, column);
  if (p.stream) end_stream();
  if (column == p.width) return;
  for (int64_t i = first; i < last; ++i) tail(p, i, p.rows ? p.rows[i] : i, column);
}

}  // namespace
}  // namespace mmfast
