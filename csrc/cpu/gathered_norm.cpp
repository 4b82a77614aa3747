// The Frobenius norm of the gathered rows table[index], repeats counted, without gathering them; and its gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "../check.h"
#include "simd.h"

namespace mmfast {
namespace {

constexpr int64_t kRowsAThread = 4096;  // fewer are not worth waking another thread

// sum_r count[r] |x_r|^2 over rows of `dim` numbers; rows are added in order, so threads could not change the bits.
template <typename T>
MMFAST_INLINE double weighted_squares(const T* x, const T* count, int64_t rows, int64_t dim) {
  constexpr int kLanes = Simd<T>::kLanes;
  double total = 0;
  for (int64_t r = 0; r < rows; ++r, x += dim) {
    if (count[r] == 0) continue;
    typename Simd<T>::Vector sum = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) sum += Simd<T>::at(x + d) * Simd<T>::at(x + d);
    double square = 0;
    for (int lane = 0; lane < kLanes; ++lane) square += sum[lane];
    for (; d < dim; ++d) square += static_cast<double>(x[d]) * x[d];
    total += static_cast<double>(count[r]) * square;
  }
  return total;
}

// out_r = scale * count[r] * x_r for rows first..last-1; rows that do not occur are not read, their runs zeroed at once
template <typename T>
MMFAST_INLINE void scaled_rows(const T* x, const T* count, T scale, int64_t first, int64_t last, int64_t dim, T* out) {
  for (int64_t r = first; r < last;) {
    int64_t end = r;
    while (end < last && count[end] == 0) ++end;
    std::fill_n(out + r * dim, (end - r) * dim, T(0));
    for (r = end; r < last && count[r] != 0; ++r) {
      const T weight = scale * count[r];
#pragma GCC ivdep
      for (int64_t d = r * dim; d < (r + 1) * dim; ++d) out[d] = weight * x[d];
    }
  }
}

MMFAST_CLONES double squares(const float* x, const float* count, int64_t rows, int64_t dim) {
  return weighted_squares(x, count, rows, dim);
}
MMFAST_CLONES double squares(const double* x, const double* count, int64_t rows, int64_t dim) {
  return weighted_squares(x, count, rows, dim);
}
MMFAST_CLONES void scale_rows(const float* x, const float* count, float scale, int64_t first, int64_t last, int64_t dim,
                              float* out) {
  scaled_rows(x, count, scale, first, last, dim, out);
}
MMFAST_CLONES void scale_rows(const double* x, const double* count, double scale, int64_t first, int64_t last,
                              int64_t dim, double* out) {
  scaled_rows(x, count, scale, first, last, dim, out);
}

template <typename T>
void forward(const at::Tensor& table, const at::Tensor& index, at::Tensor& norm, at::Tensor& counts) {
  T* count = counts.mutable_data_ptr<T>();
  const int64_t* row = index.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < index.numel(); ++b) count[row[b]] += 1;
  *norm.mutable_data_ptr<T>() =
      static_cast<T>(std::sqrt(squares(table.const_data_ptr<T>(), count, table.size(0), table.size(1))));
}

std::tuple<at::Tensor, at::Tensor> gathered_norm(const at::Tensor& table, const at::Tensor& index) {
  check_dim(table, 2, "gathered_norm", "table");
  check_real(table, "gathered_norm", "table");
  check_dim(index, 1, "gathered_norm", "index");
  check_dtype(index, at::kLong, "gathered_norm", "index");
  const at::Tensor rows = index.contiguous(), x = table.contiguous();
  check_ids(rows, table.size(0), "gathered_norm", "index");
  at::Tensor norm = at::empty({}, table.options()), counts = at::zeros({table.size(0)}, table.options());
  if (table.scalar_type() == at::kFloat) {
    forward<float>(x, rows, norm, counts);
  } else {
    forward<double>(x, rows, norm, counts);
  }
  return {norm, counts};
}

template <typename T>
void backward(const at::Tensor& grad, const at::Tensor& norm, const at::Tensor& counts, const at::Tensor& table,
              at::Tensor& out) {
  const T length = norm.item<T>();
  const T scale = length == 0 ? T(0) : grad.item<T>() / length;  // the norm has a corner at zero
  const T *x = table.const_data_ptr<T>(), *count = counts.const_data_ptr<T>();
  T* result = out.mutable_data_ptr<T>();
  const int64_t dim = table.size(1);
  at::parallel_for(0, table.size(0), kRowsAThread,
                   [&](int64_t first, int64_t last) { scale_rows(x, count, scale, first, last, dim, result); });
}

at::Tensor gathered_norm_backward(const at::Tensor& grad, const at::Tensor& norm, const at::Tensor& counts,
                                  const at::Tensor& table) {
  check_dim(counts, 1, "gathered_norm_backward", "counts");
  check_size(counts, 0, table.size(0), "gathered_norm_backward", "counts");
  const at::Tensor x = table.contiguous(), count = counts.contiguous();
  at::Tensor out = at::empty(table.sizes(), table.options());
  if (table.scalar_type() == at::kFloat) {
    backward<float>(grad, norm, count, x, out);
  } else {
    backward<double>(grad, norm, count, x, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("gathered_norm", &gathered_norm);
  m.impl("gathered_norm_backward", &gathered_norm_backward);
}

}  // namespace mmfast
