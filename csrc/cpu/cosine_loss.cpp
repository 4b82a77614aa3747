// The mean of 1 - cos(x_r, y_r) over rows, and its slopes.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "../check.h"
#include "row_blocks.h"
#include "unit_rows.h"

namespace mmfast {
namespace {

constexpr double kEps = 1e-8;  // least length of a row in a cosine

// Rows first .. last: the sum of 1 - cos; slopes are those of the mean, whose 1 / rows is `scale`.
template <typename T>
MMFAST_CLONES double cosines(const T* x, const T* y, int64_t first, int64_t last, int64_t dim, T scale, T* slope_x,
                             T* slope_y, T* unit_x, T* unit_y) {
  double sum = 0;
  for (int64_t at = first * dim; at < last * dim; at += dim) {
    const T inverse_x = unit_row(x + at, dim, T(kEps), unit_x), inverse_y = unit_row(y + at, dim, T(kEps), unit_y);
    sum += 1 - static_cast<double>(dot(unit_x, unit_y, dim));
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      slope_x[at + d] = -scale * unit_y[d];
      slope_y[at + d] = -scale * unit_x[d];
    }
    unit_row_backward(unit_x, T(1), inverse_x, dim, T(kEps), slope_x + at);
    unit_row_backward(unit_y, T(1), inverse_y, dim, T(kEps), slope_y + at);
  }
  return sum;
}

template <typename T>
T run(const T* x, const T* y, int64_t rows, int64_t dim, T* slope_x, T* slope_y) {
  std::vector<double> sums(row_blocks(rows));
  for_row_blocks(rows, [&](int64_t block, int64_t first, int64_t last) {
    std::vector<T> units(2 * dim);
    sums[block] = cosines(x, y, first, last, dim, static_cast<T>(1.0 / static_cast<double>(rows)), slope_x, slope_y,
                          units.data(), units.data() + dim);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return static_cast<T>(total / static_cast<double>(rows));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> cosine_loss(const at::Tensor& x, const at::Tensor& y) {
  check_dim(x, 2, "cosine_loss", "x");
  check_real(x, "cosine_loss", "x");
  check_dim(y, 2, "cosine_loss", "y");
  check_dtype(y, x.scalar_type(), "cosine_loss", "y");
  check_size(y, 0, x.size(0), "cosine_loss", "y");
  check_size(y, 1, x.size(1), "cosine_loss", "y");
  TORCH_CHECK_VALUE(x.size(0) > 0, "cosine_loss: the batch is empty; wanted at least one row");
  const at::Tensor left = x.contiguous(), right = y.contiguous();
  at::Tensor loss = at::empty({}, x.options());
  at::Tensor slope_x = at::empty(x.sizes(), x.options()), slope_y = at::empty(y.sizes(), y.options());
  const auto go = [&]<typename T>(T) {
    *loss.mutable_data_ptr<T>() = run(left.const_data_ptr<T>(), right.const_data_ptr<T>(), x.size(0), x.size(1),
                                      slope_x.mutable_data_ptr<T>(), slope_y.mutable_data_ptr<T>());
  };
  x.scalar_type() == at::kDouble ? go(double{}) : go(float{});
  return {loss, slope_x, slope_y};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("cosine_loss", &cosine_loss); }

}  // namespace mmfast
