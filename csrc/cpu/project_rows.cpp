// Rows of a wide feature table times a narrow weight, without a copy of the rows; and the gradient of the weight.
//
// Matrix products of this shape (thousands of rows, 4,096 features, 64 outputs) leave a general library far from its
// peak. Here the table is read once per pass, straight from its rows; a tile of sums stays in registers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../project_checks.h"
#include "simd.h"
#include "table.h"

namespace mmfast {
namespace {

constexpr int64_t kDepth = 128;     // features summed apart before they join: short sums round less
constexpr int64_t kBatch = 256;     // rows summed apart for the weight's gradient
constexpr int64_t kFeatures = 192;  // features that are packed together for the weight's gradient

// sums[m][v] = sum of a[m * stride_a + k * step_a] * b[k * V vectors + v] over k in [0, depth): M x V vectors of sums.
template <typename T, int M, int V>
MMFAST_INLINE void multiply_tile(const T* const (&a)[M], int64_t step_a, const T* b, int64_t depth,
                                 typename Simd<T>::Vector (&sums)[M][V]) {
  constexpr int kLanes = Simd<T>::kLanes;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[m][v] = typename Simd<T>::Vector{};
  }
  for (int64_t k = 0; k < depth; ++k, b += V * kLanes) {
    typename Simd<T>::Vector right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = Simd<T>::at(b + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const T left = a[m][k * step_a];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[m][v] += left * right[v];
    }
  }
}

// Writes the first `width` numbers of a tile's row, or adds them to what is there: blocks are summed apart, then
// joined.
template <typename T, int V>
MMFAST_INLINE void put_row(const typename Simd<T>::Vector (&sums)[V], int64_t width, bool add, T* out) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (width == V * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      auto& to = Simd<T>::at(out + v * kLanes);
      to = add ? to + sums[v] : sums[v];
    }
    return;
  }
  for (int64_t j = 0; j < width; ++j) out[j] = sums[j / kLanes][j % kLanes] + (add ? out[j] : T(0));
}

template <typename T>
struct Operands {
  const T* table;       // [I, F]
  const int64_t* rows;  // [R]
  int64_t num_rows;
  int64_t features;
  int64_t outputs;
  const T* row(int64_t r) const { return table + rows[r] * features; }
};

// A panel holds kWide outputs (or features) side by side, zeros beyond the last, one group per step of the product.
template <typename T>
constexpr int64_t kWide = 2 * Simd<T>::kLanes;
constexpr int kTall = 6;
constexpr int64_t kGroup = 4 * kTall;  // rows that share a panel while both lie in the nearest cache
constexpr int64_t kAhead = 2 * kTall;  // rows between the asking for a row's features and their use

template <typename T>
int64_t panels_of(int64_t width) {
  return (width + kWide<T> - 1) / kWide<T>;
}

// packed[panel][k][j] = source[(panel * kWide + j) * stride + first + k]: the transpose of `outputs` rows of a weight.
template <typename T>
void pack_transposed(const T* source, int64_t outputs, int64_t stride, int64_t first, int64_t depth, T* packed) {
  for (int64_t d = 0; d < panels_of<T>(outputs) * kWide<T>; ++d) {
    T* to = packed + d / kWide<T> * depth * kWide<T> + d % kWide<T>;
    for (int64_t k = 0; k < depth; ++k) to[k * kWide<T>] = d < outputs ? source[d * stride + first + k] : T(0);
  }
}

// Asks for `depth` features of a row ahead of their use: pieces this short are over before the hardware foresees them.
template <typename T>
MMFAST_INLINE void fetch(const T* row, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + k, 0, 2);
}

// out[r] (+)= features [first, first + depth) of row r times the packed weight, for r in [begin, end).
template <typename T>
MMFAST_INLINE void forward_of(const Operands<T>& o, const T* packed, int64_t first, int64_t depth, int64_t begin,
                              int64_t end, T* out) {
  for (int64_t group = begin; group < end; group += kGroup) {
    const int64_t last = std::min(end, group + kGroup);
    for (int64_t r = group; r < last; ++r) fetch(o.row(std::min(r + kGroup, end - 1)) + first, depth);
    for (int64_t panel = 0; panel < panels_of<T>(o.outputs); ++panel) {
      const int64_t column = panel * kWide<T>, width = std::min(kWide<T>, o.outputs - column);
      for (int64_t r = group; r < last; r += kTall) {
        const T* left[kTall];
        for (int m = 0; m < kTall; ++m) left[m] = o.row(std::min(r + m, last - 1)) + first;  // repeats past the end
        typename Simd<T>::Vector sums[kTall][2];
        multiply_tile<T, kTall, 2>(left, 1, packed + panel * depth * kWide<T>, depth, sums);
        for (int m = 0; m < kTall && r + m < last; ++m) {
          put_row<T, 2>(sums[m], width, first > 0, out + (r + m) * o.outputs + column);
        }
      }
    }
  }
}

// Features [first, first + depth) of the weight's gradient [D, F]: the sum over rows of grad[r] times the row.
template <typename T>
MMFAST_INLINE void weight_gradient_of(const Operands<T>& o, const T* packed_grad, int64_t first, int64_t depth,
                                      T* packed, T* out) {
  const int64_t panels = panels_of<T>(depth), tall = (o.outputs + kTall - 1) / kTall * kTall;
  for (int64_t begin = 0; begin < o.num_rows; begin += kBatch) {
    const int64_t count = std::min(kBatch, o.num_rows - begin);
    for (int64_t r = 0; r < count; ++r) {
      const T* row = o.row(begin + r) + first;
      fetch(o.row(std::min(begin + r + kAhead, o.num_rows - 1)) + first, depth);
      for (int64_t panel = 0; panel < panels; ++panel, row += kWide<T>) {
        T* to = packed + (panel * count + r) * kWide<T>;
        const int64_t width = std::min(kWide<T>, depth - panel * kWide<T>);
        if (width == kWide<T>) {
          for (int v = 0; v < 2; ++v) Simd<T>::at(to + v * Simd<T>::kLanes) = Simd<T>::at(row + v * Simd<T>::kLanes);
        } else {
          for (int64_t j = 0; j < kWide<T>; ++j) to[j] = j < width ? row[j] : T(0);
        }
      }
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t column = first + panel * kWide<T>, width = std::min(kWide<T>, depth - panel * kWide<T>);
      for (int64_t d = 0; d < o.outputs; d += kTall) {
        const T* left[kTall];
        for (int m = 0; m < kTall; ++m) left[m] = packed_grad + (begin * tall + d * count) + m;
        typename Simd<T>::Vector sums[kTall][2];
        multiply_tile<T, kTall, 2>(left, kTall, packed + panel * count * kWide<T>, count, sums);
        for (int m = 0; m < kTall && d + m < o.outputs; ++m) {
          put_row<T, 2>(sums[m], width, begin > 0, out + (d + m) * o.features + column);
        }
      }
    }
  }
}

#define MMFAST_INSTANTIATE(T)                                                                                          \
  MMFAST_CLONES void forward_range(const Operands<T>& o, const T* packed, int64_t first, int64_t depth, int64_t begin, \
                                   int64_t end, T* out) {                                                              \
    forward_of(o, packed, first, depth, begin, end, out);                                                              \
  }                                                                                                                    \
  MMFAST_CLONES void weight_range(const Operands<T>& o, const T* packed_grad, int64_t first, int64_t depth, T* packed, \
                                  T* out) {                                                                            \
    weight_gradient_of(o, packed_grad, first, depth, packed, out);                                                     \
  }
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

// Threads own rows in whole tiles, so the order in which a number is summed never depends on their count.
template <typename Body>
void over_rows(int64_t num_rows, const Body& body) {
  const int64_t tiles = (num_rows + kTall - 1) / kTall, threads = at::get_num_threads();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t thread = 0; thread < threads; ++thread) {
    const int64_t begin = tiles * thread / threads * kTall;
    const int64_t end = std::min(num_rows, tiles * (thread + 1) / threads * kTall);
    if (begin < end) body(begin, end);
  }
}

template <typename T>
void forward(const Operands<T>& o, const T* weight, T* out) {
  if (o.features == 0) std::fill(out, out + o.num_rows * o.outputs, T(0));
  const int64_t block = panels_of<T>(o.outputs) * kWide<T>;  // packed numbers per feature
  std::vector<T> packed(block * o.features);
  for (int64_t first = 0; first < o.features; first += kDepth) {
    pack_transposed(weight, o.outputs, o.features, first, std::min(kDepth, o.features - first),
                    packed.data() + first * block);
  }
  over_rows(o.num_rows, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < o.features; first += kDepth) {
      const int64_t depth = std::min(kDepth, o.features - first);
      forward_range(o, packed.data() + first * block, first, depth, begin, end, out);
    }
  });
}

// packed[batch][tile][r][m] = grad[r][tile * kTall + m], zeros beyond the last output.
template <typename T>
std::vector<T> pack_gradient(const T* grad, int64_t num_rows, int64_t outputs) {
  const int64_t tall = (outputs + kTall - 1) / kTall * kTall;
  std::vector<T> packed(num_rows * tall);
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t begin = r / kBatch * kBatch, count = std::min(kBatch, num_rows - begin);
    T* to = packed.data() + begin * tall + (r - begin) * kTall;
    for (int64_t d = 0; d < outputs; ++d) to[d / kTall * kTall * count + d % kTall] = grad[r * outputs + d];
  }
  return packed;
}

template <typename T>
void weight_gradient(const Operands<T>& o, const T* grad, T* out) {
  const int64_t blocks = (o.features + kFeatures - 1) / kFeatures;
  if (o.num_rows == 0) std::fill(out, out + o.outputs * o.features, T(0));
  const std::vector<T> packed_grad = pack_gradient(grad, o.num_rows, o.outputs);
#pragma omp parallel num_threads(at::get_num_threads())
  {
    std::vector<T> packed(panels_of<T>(kFeatures) * kWide<T> * kBatch);
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kFeatures, depth = std::min(kFeatures, o.features - first);
      weight_range(o, packed_grad.data(), first, depth, packed.data(), out);
    }
  }
}

template <typename T>
Operands<T> operands(const at::Tensor& table, const at::Tensor& rows, int64_t outputs) {
  return {table.const_data_ptr<T>(), rows.const_data_ptr<int64_t>(), rows.numel(), table.size(1), outputs};
}

at::Tensor checked_rows(const char* op, const at::Tensor& table, const at::Tensor& rows) {
  check_projected(table, rows, op);
  const at::Tensor ids = rows.contiguous();
  check_ids(ids, table.size(0), op, "rows");
  check_rising(ids, op);
  return ids;
}

at::Tensor project_rows(const at::Tensor& table, const at::Tensor& rows, const at::Tensor& weight) {
  const char* op = "project_rows";
  const at::Tensor ids = checked_rows(op, table, rows), w = weight.contiguous();
  check_factor(w, 1, table.size(1), table, op, "weight");
  at::Tensor out = at::empty({ids.numel(), w.size(0)}, w.options());
  if (table.scalar_type() == at::kFloat) {
    forward(operands<float>(table, ids, w.size(0)), w.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  } else {
    forward(operands<double>(table, ids, w.size(0)), w.const_data_ptr<double>(), out.mutable_data_ptr<double>());
  }
  return out;
}

at::Tensor project_rows_weight(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& rows) {
  const char* op = "project_rows_weight";
  const at::Tensor ids = checked_rows(op, table, rows), g = grad.contiguous();
  check_factor(g, 0, ids.numel(), table, op, "grad");
  at::Tensor out = empty_table({g.size(1), table.size(1)}, g.options());
  if (table.scalar_type() == at::kFloat) {
    weight_gradient(operands<float>(table, ids, g.size(1)), g.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  } else {
    weight_gradient(operands<double>(table, ids, g.size(1)), g.const_data_ptr<double>(),
                    out.mutable_data_ptr<double>());
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("project_rows", &project_rows);
  m.impl("project_rows_weight", &project_rows_weight);
}

}  // namespace mmfast
