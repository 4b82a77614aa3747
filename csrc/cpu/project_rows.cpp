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
constexpr int64_t kGroup = 24;      // rows that share a panel while both lie in the nearest cache
constexpr int64_t kAhead = 12;      // rows between the asking for a row's features and their use

int64_t round_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// Tiles of kRows rows by kVectors vectors of sums. A panel holds kWide outputs (or features) side by side, zeros beyond
// the last, one group per step of the product.
template <typename Number, int kBytes, int kRows, int kVectors>
struct Tile {
  using T = Number;
  using Lanes = Simd<T, kBytes>;
  using Row = typename Lanes::Vector[kVectors];
  using Sums = Row[kRows];
  static constexpr int64_t kLanes = Lanes::kLanes, kAcross = kVectors, kWide = kAcross * kLanes, kTall = kRows;

  static int64_t panels(int64_t width) { return (width + kWide - 1) / kWide; }
};

// sums[m] += a[m][k * step_a] * b[k * kWide ...] over k in [0, depth).
template <typename S, typename T = typename S::T>
MMFAST_INLINE void multiply_tile(const T* const (&a)[S::kTall], int64_t step_a, const T* b, int64_t depth,
                                 typename S::Sums& sums) {
  for (int64_t k = 0; k < depth; ++k, b += S::kWide) {
    typename S::Row right;
#pragma GCC unroll 4
    for (int v = 0; v < S::kAcross; ++v) right[v] = S::Lanes::at(b + v * S::kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < S::kTall; ++m) {
      const T left = a[m][k * step_a];
#pragma GCC unroll 4
      for (int v = 0; v < S::kAcross; ++v) sums[m][v] += left * right[v];
    }
  }
}

template <typename S>
MMFAST_INLINE void clear(typename S::Sums& sums) {
#pragma GCC unroll 16
  for (int m = 0; m < S::kTall; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < S::kAcross; ++v) sums[m][v] = typename S::Lanes::Vector{};
  }
}

// Writes the first `width` numbers of a tile's row, or adds them to what is there: blocks are summed apart, then
// joined.
template <typename S, typename T = typename S::T>
MMFAST_INLINE void put_row(const typename S::Row& sums, int64_t width, bool add, T* out) {
  if (width == S::kWide) {
#pragma GCC unroll 4
    for (int v = 0; v < S::kAcross; ++v) {
      auto& to = S::Lanes::at(out + v * S::kLanes);
      to = add ? to + sums[v] : sums[v];
    }
    return;
  }
  for (int64_t j = 0; j < width; ++j) out[j] = sums[j / S::kLanes][j % S::kLanes] + (add ? out[j] : T(0));
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

// packed[panel][k][j] = source[(panel * wide + j) * stride + first + k]: the transpose of `outputs` rows of a weight.
template <typename T>
void pack_transposed(const T* source, int64_t outputs, int64_t stride, int64_t first, int64_t depth, int64_t wide,
                     T* packed) {
  for (int64_t d = 0; d < round_up(outputs, wide); ++d) {
    T* to = packed + d / wide * depth * wide + d % wide;
    for (int64_t k = 0; k < depth; ++k) to[k * wide] = d < outputs ? source[d * stride + first + k] : T(0);
  }
}

template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);  // numbers of a cache line

// Asks for `depth` features of a row ahead of their use: pieces this short are over before the hardware foresees them.
template <typename T>
MMFAST_INLINE void fetch(const T* row, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + k, 0, 2);
}

// out[r] (+)= features [first, first + depth) of row r times the packed weight, for r in [begin, end).
template <typename S, typename T = typename S::T>
MMFAST_INLINE void forward_of(const Operands<T>& o, const T* packed, int64_t first, int64_t depth, int64_t begin,
                              int64_t end, T* out) {
  for (int64_t group = begin; group < end; group += kGroup) {
    const int64_t last = std::min(end, group + kGroup);
    for (int64_t panel = 0; panel < S::panels(o.outputs); ++panel) {
      const int64_t column = panel * S::kWide, width = std::min(S::kWide, o.outputs - column);
      for (int64_t r = group; r < last; r += S::kTall) {
        typename S::Sums sums;
        clear<S>(sums);
        const T* b = packed + panel * depth * S::kWide;
        for (int64_t k = 0; k < depth; k += kLine<T>) {
          const T* left[S::kTall];
          for (int m = 0; m < S::kTall; ++m) {
            left[m] = o.row(std::min(r + m, last - 1)) + first + k;  // repeats past the end
            if (panel == 0) __builtin_prefetch(o.row(std::min(r + m + kGroup, end - 1)) + first + k, 0, 2);
          }
          multiply_tile<S>(left, 1, b + k * S::kWide, std::min(kLine<T>, depth - k), sums);
        }
        for (int m = 0; m < S::kTall && r + m < last; ++m) {
          put_row<S>(sums[m], width, first > 0, out + (r + m) * o.outputs + column);
        }
      }
    }
  }
}

// packed[panel][r][j] = features [first, first + depth) of `count` rows, from the begin-th on.
template <typename S, typename T = typename S::T>
MMFAST_INLINE void pack_rows(const Operands<T>& o, int64_t begin, int64_t count, int64_t first, int64_t depth,
                             T* packed) {
  for (int64_t r = 0; r < count; ++r) {
    const T* row = o.row(begin + r) + first;
    fetch(o.row(std::min(begin + r + kAhead, o.num_rows - 1)) + first, depth);
    for (int64_t panel = 0; panel < S::panels(depth); ++panel, row += S::kWide) {
      T* to = packed + (panel * count + r) * S::kWide;
      const int64_t width = std::min(S::kWide, depth - panel * S::kWide);
      if (width == S::kWide) {
        for (int v = 0; v < S::kAcross; ++v) S::Lanes::at(to + v * S::kLanes) = S::Lanes::at(row + v * S::kLanes);
      } else {
        for (int64_t j = 0; j < S::kWide; ++j) to[j] = j < width ? row[j] : T(0);
      }
    }
  }
}

// Features [first, first + depth) of the weight's gradient [D, F]: the sum over rows of grad[r] times the row.
template <typename S, typename T = typename S::T>
MMFAST_INLINE void weight_gradient_of(const Operands<T>& o, const T* packed_grad, int64_t first, int64_t depth,
                                      T* packed, T* out) {
  const int64_t tall = round_up(o.outputs, S::kTall);
  for (int64_t begin = 0; begin < o.num_rows; begin += kBatch) {
    const int64_t count = std::min(kBatch, o.num_rows - begin);
    pack_rows<S>(o, begin, count, first, depth, packed);
    for (int64_t panel = 0; panel < S::panels(depth); ++panel) {
      const int64_t column = first + panel * S::kWide, width = std::min(S::kWide, depth - panel * S::kWide);
      for (int64_t d = 0; d < o.outputs; d += S::kTall) {
        const T* left[S::kTall];
        for (int m = 0; m < S::kTall; ++m) left[m] = packed_grad + (begin * tall + d * count) + m;
        typename S::Sums sums;
        clear<S>(sums);
        multiply_tile<S>(left, S::kTall, packed + panel * count * S::kWide, count, sums);
        for (int m = 0; m < S::kTall && d + m < o.outputs; ++m) {
          put_row<S>(sums[m], width, begin > 0, out + (d + m) * o.features + column);
        }
      }
    }
  }
}

// The two products as this CPU computes them best. A number is summed in the same order by all.
template <typename T>
struct Kernels {
  int64_t tall, wide;
  void (*forward)(const Operands<T>&, const T*, int64_t, int64_t, int64_t, int64_t, T*);
  void (*weight)(const Operands<T>&, const T*, int64_t, int64_t, T*, T*);
};

#define MMFAST_INSTANTIATE(T, level, attribute, S)                                                                   \
  attribute void forward_##level(const Operands<T>& o, const T* packed, int64_t first, int64_t depth, int64_t begin, \
                                 int64_t end, T* out) {                                                              \
    forward_of<S>(o, packed, first, depth, begin, end, out);                                                         \
  }                                                                                                                  \
  attribute void weight_##level(const Operands<T>& o, const T* packed_grad, int64_t first, int64_t depth, T* packed, \
                                T* out) {                                                                            \
    weight_gradient_of<S>(o, packed_grad, first, depth, packed, out);                                                \
  }                                                                                                                  \
  Kernels<T> kernels_##level(T) { return {S::kTall, S::kWide, &forward_##level, &weight_##level}; }
template <typename T>
using Narrow = Tile<T, 32, 6, 2>;
MMFAST_INSTANTIATE(float, any, MMFAST_CLONES, Narrow<float>)
MMFAST_INSTANTIATE(double, any, MMFAST_CLONES, Narrow<double>)
#ifdef MMFAST_WIDE
template <typename T>
using Wide = Tile<T, 64, 6, 4>;
MMFAST_INSTANTIATE(float, wide, MMFAST_WIDE, Wide<float>)
MMFAST_INSTANTIATE(double, wide, MMFAST_WIDE, Wide<double>)
#endif

// For panels over `columns`: a few would leave most of a wide tile empty.
template <typename T>
Kernels<T> kernels(int64_t columns) {
#ifdef MMFAST_WIDE
  if (columns > Narrow<T>::kWide && has_wide()) return kernels_wide(T());
#endif
  return kernels_any(T());
}

// Threads own rows in whole tiles, so the order in which a number is summed never depends on their count.
template <typename Body>
void over_rows(int64_t num_rows, int64_t tall, const Body& body) {
  const int64_t tiles = (num_rows + tall - 1) / tall, threads = at::get_num_threads();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t thread = 0; thread < threads; ++thread) {
    const int64_t begin = tiles * thread / threads * tall;
    const int64_t end = std::min(num_rows, tiles * (thread + 1) / threads * tall);
    if (begin < end) body(begin, end);
  }
}

template <typename T>
void forward(const Operands<T>& o, const T* weight, T* out) {
  if (o.features == 0) std::fill(out, out + o.num_rows * o.outputs, T(0));
  const Kernels<T> use = kernels<T>(o.outputs);
  const int64_t block = round_up(o.outputs, use.wide);  // packed numbers per feature
  std::vector<T> packed(block * o.features);
  for (int64_t first = 0; first < o.features; first += kDepth) {
    pack_transposed(weight, o.outputs, o.features, first, std::min(kDepth, o.features - first), use.wide,
                    packed.data() + first * block);
  }
  over_rows(o.num_rows, use.tall, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < o.features; first += kDepth) {
      const int64_t depth = std::min(kDepth, o.features - first);
      use.forward(o, packed.data() + first * block, first, depth, begin, end, out);
    }
  });
}

// packed[batch][tile][r][m] = grad[r][tile * tall + m], zeros beyond the last output.
template <typename T>
std::vector<T> pack_gradient(const T* grad, int64_t num_rows, int64_t outputs, int64_t tall) {
  const int64_t padded = round_up(outputs, tall);
  std::vector<T> packed(num_rows * padded);
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t begin = r / kBatch * kBatch, count = std::min(kBatch, num_rows - begin);
    T* to = packed.data() + begin * padded + (r - begin) * tall;
    for (int64_t d = 0; d < outputs; ++d) to[d / tall * tall * count + d % tall] = grad[r * outputs + d];
  }
  return packed;
}

template <typename T>
void weight_gradient(const Operands<T>& o, const T* grad, T* out) {
  const int64_t blocks = (o.features + kFeatures - 1) / kFeatures;
  if (o.num_rows == 0) std::fill(out, out + o.outputs * o.features, T(0));
  const Kernels<T> use = kernels<T>(o.features);
  const std::vector<T> packed_grad = pack_gradient(grad, o.num_rows, o.outputs, use.tall);
#pragma omp parallel num_threads(at::get_num_threads())
  {
    std::vector<T> packed(round_up(kFeatures, use.wide) * kBatch);
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kFeatures, depth = std::min(kFeatures, o.features - first);
      use.weight(o, packed_grad.data(), first, depth, packed.data(), out);
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
