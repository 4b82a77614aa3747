// Orthonormal cosine transforms (DCT-II, DCT-III) along the last axis, or the last two, of batches of matrices.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "../check.h"
#include "dct_plan.h"
#include "simd.h"
#include "table.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr int64_t kAhead = 16;  // rows between the prefetch of a piece of a row and its use
constexpr int64_t kTiles = 2;   // tiles of columns loaded together: vectors of a cache line

template <typename T>
using Vector = typename Simd<T>::Vector;

// Exchanges of the transposition, in one order for all lanes: pairs of numbers, pairs of pairs, halves.
MMFAST_INLINE void transpose(Vector<float> (&v)[8]) {
  typedef int32_t Mask __attribute__((vector_size(32)));
  Vector<float> a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shuffle(v[i], v[i + 1], Mask{0, 8, 2, 10, 4, 12, 6, 14});
    a[i + 1] = __builtin_shuffle(v[i], v[i + 1], Mask{1, 9, 3, 11, 5, 13, 7, 15});
  }
  for (const int i : {0, 1, 4, 5}) {
    b[i] = __builtin_shuffle(a[i], a[i + 2], Mask{0, 1, 8, 9, 4, 5, 12, 13});
    b[i + 2] = __builtin_shuffle(a[i], a[i + 2], Mask{2, 3, 10, 11, 6, 7, 14, 15});
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shuffle(b[i], b[i + 4], Mask{0, 1, 2, 3, 8, 9, 10, 11});
    v[i + 4] = __builtin_shuffle(b[i], b[i + 4], Mask{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

MMFAST_INLINE void transpose(Vector<double> (&v)[4]) {
  typedef int64_t Mask __attribute__((vector_size(32)));
  const Vector<double> a = __builtin_shuffle(v[0], v[1], Mask{0, 4, 2, 6});
  const Vector<double> b = __builtin_shuffle(v[0], v[1], Mask{1, 5, 3, 7});
  const Vector<double> c = __builtin_shuffle(v[2], v[3], Mask{0, 4, 2, 6});
  const Vector<double> d = __builtin_shuffle(v[2], v[3], Mask{1, 5, 3, 7});
  v[0] = __builtin_shuffle(a, c, Mask{0, 1, 4, 5});
  v[1] = __builtin_shuffle(b, d, Mask{0, 1, 4, 5});
  v[2] = __builtin_shuffle(a, c, Mask{2, 3, 6, 7});
  v[3] = __builtin_shuffle(b, d, Mask{2, 3, 6, 7});
}

// Where the sequences of a tile lie, and in which order their samples stand in the tile.
template <typename T>
struct Place {
  T* data;         // the first sample of the first sequence
  int64_t stride;  // rows: to the next sequence; columns: to the next sample
  int64_t lanes;   // sequences present, 1 .. kLanes of a tile
  int64_t size;    // samples
  bool reorder;    // sample n stands at n / 2 (even), or that far from the end (odd); else at n
};

template <typename T>
MMFAST_INLINE int64_t position(const Place<T>& p, int64_t n) {
  if (!p.reorder) return n;
  return n % 2 ? p.size - 1 - n / 2 : n / 2;
}

// tile[position(n)] = sample n of every row; absent rows repeat the last one.
template <typename T>
MMFAST_INLINE void load_rows_of(const Place<const T>& p, T* tile) {
  constexpr int kLanes = Simd<T>::kLanes;
  const T* row[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) row[lane] = p.data + std::min<int64_t>(lane, p.lanes - 1) * p.stride;
  int64_t n = 0;
  for (; n + kLanes <= p.size; n += kLanes) {
    Vector<T> v[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = Simd<T>::at(row[lane] + n);
    transpose(v);
    for (int i = 0; i < kLanes; ++i) Simd<T>::at(tile + position(p, n + i) * kLanes) = v[i];
  }
  for (; n < p.size; ++n) {
    for (int lane = 0; lane < kLanes; ++lane) tile[position(p, n) * kLanes + lane] = row[lane][n];
  }
}

template <typename T>
MMFAST_INLINE void store_rows_of(const T* tile, const Place<T>& p) {
  constexpr int kLanes = Simd<T>::kLanes;
  int64_t n = 0;
  for (; n + kLanes <= p.size; n += kLanes) {
    Vector<T> v[kLanes];
    for (int i = 0; i < kLanes; ++i) v[i] = Simd<T>::at(tile + position(p, n + i) * kLanes);
    transpose(v);
    for (int64_t lane = 0; lane < p.lanes; ++lane) Simd<T>::at(p.data + lane * p.stride + n) = v[lane];
  }
  for (; n < p.size; ++n) {
    for (int64_t lane = 0; lane < p.lanes; ++lane) {
      p.data[lane * p.stride + n] = tile[position(p, n) * kLanes + lane];
    }
  }
}

// Whole tiles of columns, side by side; `step` numbers apart in memory.
template <typename T>
MMFAST_INLINE void load_columns_of(const Place<const T>& p, int64_t tiles, int64_t step, T* tile) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t n = 0; n < p.size; ++n) {
    const T* in = p.data + n * p.stride;
    if (n + kAhead < p.size) __builtin_prefetch(in + kAhead * p.stride);
    T* out = tile + position(p, n) * kLanes;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t lanes = std::min<int64_t>(kLanes, p.lanes - i * kLanes);
      if (lanes == kLanes) {
        Simd<T>::at(out + i * step) = Simd<T>::at(in + i * kLanes);
      } else {
        for (int64_t lane = 0; lane < kLanes; ++lane)
          out[i * step + lane] = lane < lanes ? in[i * kLanes + lane] : T(0);
      }
    }
  }
}

template <typename T>
MMFAST_INLINE void store_columns_of(const T* tile, int64_t tiles, int64_t step, const Place<T>& p) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t n = 0; n < p.size; ++n) {
    T* out = p.data + n * p.stride;
    if (n + kAhead < p.size) __builtin_prefetch(out + kAhead * p.stride, 1);
    const T* in = tile + position(p, n) * kLanes;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t lanes = std::min<int64_t>(kLanes, p.lanes - i * kLanes);
      if (lanes == kLanes) {
        Simd<T>::at(out + i * kLanes) = Simd<T>::at(in + i * step);
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) out[i * kLanes + lane] = in[i * step + lane];
      }
    }
  }
}

MMFAST_CLONES void load_rows(const Place<const float>& p, float* tile) { load_rows_of(p, tile); }
MMFAST_CLONES void load_rows(const Place<const double>& p, double* tile) { load_rows_of(p, tile); }
MMFAST_CLONES void store_rows(const float* tile, const Place<float>& p) { store_rows_of(tile, p); }
MMFAST_CLONES void store_rows(const double* tile, const Place<double>& p) { store_rows_of(tile, p); }
MMFAST_CLONES void load_columns(const Place<const float>& p, int64_t tiles, int64_t step, float* tile) {
  load_columns_of(p, tiles, step, tile);
}
MMFAST_CLONES void load_columns(const Place<const double>& p, int64_t tiles, int64_t step, double* tile) {
  load_columns_of(p, tiles, step, tile);
}
MMFAST_CLONES void store_columns(const float* tile, int64_t tiles, int64_t step, const Place<float>& p) {
  store_columns_of(tile, tiles, step, p);
}
MMFAST_CLONES void store_columns(const double* tile, int64_t tiles, int64_t step, const Place<double>& p) {
  store_columns_of(tile, tiles, step, p);
}

template <typename T>
void transform(const DctPlan<T>& plan, bool inverse, T* tile, T* work) {
  inverse ? plan.inverse(tile, work) : plan.forward(tile, work);
}

// Every row of x [rows, N] into out; a piece of work is a tile of rows.
template <typename T>
void transform_rows(const at::Tensor& x, int64_t rows, int64_t size, bool inverse, at::Tensor& out) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  const auto plan = dct_plan<T>(size);
  const T* in = x.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  Pieces pieces((rows + kLanes - 1) / kLanes);
  for_workers([&] {
    const at::Tensor buffer = empty_table({size * kLanes + plan->work()}, x.options());
    T *tile = buffer.mutable_data_ptr<T>(), *work = tile + size * kLanes;
    for (int64_t piece; pieces.take(piece);) {
      const int64_t first = piece * kLanes, lanes = std::min(kLanes, rows - first);
      load_rows(Place<const T>{in + first * size, size, lanes, size, !inverse}, tile);
      transform(*plan, inverse, tile, work);
      store_rows(tile, Place<T>{to + first * size, size, lanes, size, inverse});
    }
  });
}

// Every column of the matrices of x [batch, N, width], in place; a piece of work is kTiles tiles of columns.
template <typename T>
void transform_columns(at::Tensor& x, int64_t batch, int64_t size, int64_t width, bool inverse) {
  constexpr int64_t kLanes = Simd<T>::kLanes, kWide = kTiles * kLanes;
  const auto plan = dct_plan<T>(size);
  T* data = x.mutable_data_ptr<T>();
  const int64_t across = (width + kWide - 1) / kWide, step = size * kLanes;
  Pieces pieces(batch * across);
  for_workers([&] {
    const at::Tensor buffer = empty_table({kTiles * step + plan->work()}, x.options());
    T *tile = buffer.mutable_data_ptr<T>(), *work = tile + kTiles * step;
    for (int64_t piece; pieces.take(piece);) {
      const int64_t first = piece % across * kWide, lanes = std::min(kWide, width - first);
      const int64_t tiles = (lanes + kLanes - 1) / kLanes;
      T* columns = data + piece / across * size * width + first;
      load_columns(Place<const T>{columns, width, lanes, size, !inverse}, tiles, step, tile);
      for (int64_t i = 0; i < tiles; ++i) transform(*plan, inverse, tile + i * step, work);
      store_columns(tile, tiles, step, Place<T>{columns, width, lanes, size, inverse});
    }
  });
}

template <typename T>
void run(const at::Tensor& x, int64_t axes, bool inverse, at::Tensor& out) {
  const int64_t width = x.size(-1);
  transform_rows<T>(x, x.numel() / width, width, inverse, out);
  if (axes == 2) transform_columns<T>(out, x.numel() / width / x.size(-2), x.size(-2), width, inverse);
}

at::Tensor dct(const at::Tensor& x, int64_t axes, bool inverse) {
  check_real(x, "dct", "x");
  TORCH_CHECK(axes == 1 || axes == 2, "dct: axes is ", axes, "; wanted 1 (the last axis) or 2 (the last two)");
  TORCH_CHECK(x.dim() >= axes, "dct: x has ", x.dim(), " dimensions; wanted at least ", axes);
  for (int64_t axis = 1; axis <= axes; ++axis) {
    TORCH_CHECK(x.size(-axis) < (int64_t(1) << 31), "dct: x has size ", x.size(-axis), " along axis ", -axis,
                "; wanted less than 2^31");
  }
  at::Tensor out = empty_table(x.sizes(), x.options());
  if (x.numel() == 0) return out;
  const at::Tensor dense = x.contiguous();
  if (x.scalar_type() == at::kFloat) {
    run<float>(dense, axes, inverse, out);
  } else {
    run<double>(dense, axes, inverse, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("dct", &dct); }

}  // namespace mmfast
