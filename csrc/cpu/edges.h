// The edges of a graph by target row and by source column, as kernels read them, and sums over the rows they name.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "../check.h"
#include "simd.h"

namespace mmfast {

constexpr int64_t kChunk = 128;  // entries whose rows are looked up at a time
constexpr int64_t kAhead = 16;   // entries between the prefetch of a row and its use

// Entries of one row (or one column) and the table rows they name. Those in [count, stop) come later: they are only
// asked for, so that memory is at work while the present ones are.
template <typename T>
struct Chunk {
  int64_t count = 0, stop = 0;
  int64_t entry[kChunk];
  int64_t row[kChunk + kAhead];
  T weight[kChunk];
};

template <typename T>
MMFAST_INLINE void weigh(Chunk<T>& chunk, const T* values) {
  for (int64_t i = 0; i < chunk.count; ++i) chunk.weight[i] = values[chunk.entry[i]];
}

template <typename T>
MMFAST_INLINE void prefetch_later(const Chunk<T>& chunk, int64_t i, const T* table, int64_t dim) {
  if (i + kAhead >= chunk.stop) return;
  const char* row = reinterpret_cast<const char*>(table + chunk.row[i + kAhead] * dim);
  for (int64_t byte = 0; byte < static_cast<int64_t>(dim * sizeof(T)); byte += 64) __builtin_prefetch(row + byte);
}

template <typename T>
MMFAST_INLINE T lane_sum(const typename Simd<T>::Vector& v) {
  T sum[Simd<T>::kLanes / 2];
  constexpr int kHalf = Simd<T>::kLanes / 2;
  for (int lane = 0; lane < kHalf; ++lane) sum[lane] = v[lane] + v[lane + kHalf];
  if constexpr (kHalf == 4) return (sum[0] + sum[2]) + (sum[1] + sum[3]);
  return sum[0] + sum[1];
}

// weight[i] = <x, table[row[i]]>.
template <typename T>
MMFAST_INLINE void dot_rows(Chunk<T>& chunk, const T* table, int64_t dim, const T* x) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  for (int64_t i = 0; i < chunk.count; ++i) {
    prefetch_later(chunk, i, table, dim);
    const T* y = table + chunk.row[i] * dim;
    typename Simd<T>::Vector even = {}, odd = {};
    int64_t d = 0;
    for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
      even += Simd<T>::at(x + d) * Simd<T>::at(y + d);
      odd += Simd<T>::at(x + d + kLanes) * Simd<T>::at(y + d + kLanes);
    }
    if (d + kLanes <= dim) even += Simd<T>::at(x + d) * Simd<T>::at(y + d), d += kLanes;
    T sum = lane_sum<T>(even + odd);
    for (; d < dim; ++d) sum += x[d] * y[d];
    chunk.weight[i] = sum;
  }
}

// V vectors of out += sum_i weight[i] table[row[i]]; fetch: asks for whole later rows.
template <typename T, int V>
MMFAST_INLINE void add_vectors(const Chunk<T>& chunk, const T* table, int64_t dim, T* out, bool fetch) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum[V];
  for (int v = 0; v < V; ++v) sum[v] = Simd<T>::at(out + v * kLanes);
  for (int64_t i = 0; i < chunk.count; ++i) {
    if (fetch) prefetch_later(chunk, i, table, dim);
    const T* row = table + chunk.row[i] * dim;
    for (int v = 0; v < V; ++v) sum[v] += chunk.weight[i] * Simd<T>::at(row + v * kLanes);
  }
  for (int v = 0; v < V; ++v) Simd<T>::at(out + v * kLanes) = sum[v];
}

// out [dim] += sum_i weight[i] table[row[i]]; fetch: the rows have not been met just before.
template <typename T>
MMFAST_INLINE void add_rows(const Chunk<T>& chunk, const T* table, int64_t dim, T* out, bool fetch) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  int64_t d = 0;
  for (; d + 8 * kLanes <= dim; d += 8 * kLanes) add_vectors<T, 8>(chunk, table + d, dim, out + d, fetch && d == 0);
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) add_vectors<T, 2>(chunk, table + d, dim, out + d, fetch && d == 0);
  if (d + kLanes <= dim) add_vectors<T, 1>(chunk, table + d, dim, out + d, fetch && d == 0), d += kLanes;
  for (; d < dim; ++d) {
    T sum = out[d];
    for (int64_t i = 0; i < chunk.count; ++i) sum += chunk.weight[i] * table[chunk.row[i] * dim + d];
    out[d] = sum;
  }
}

// ptr [rows + 1] int64 from 0 to `entries`, never falling; returned contiguous.
at::Tensor checked_ptr(const at::Tensor& ptr, int64_t entries, const char* op, const char* name);

// Entry numbers or ids, int32 [entries] inside [0, size); returned contiguous.
at::Tensor checked_ids(const at::Tensor& ids, int64_t entries, int64_t size, const char* op, const char* name);

}  // namespace mmfast
