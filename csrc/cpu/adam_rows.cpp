// One step of Adam on a whole table whose gradient is zero outside `rows`, in one pass over table and moments.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "../adam_checks.h"
#include "simd.h"

namespace mmfast {
namespace {

template <typename T>
struct Step {
  T* param;
  T* exp_avg;
  T* exp_avg_sq;
  const int64_t* rows;
  const T* grad;
  int64_t num_rows;  // rows with a gradient
  int64_t width;
  T beta2, rest1, rest2;  // rest = 1 - beta, rounded once: 1 - 0.999f is wrong in the fifth digit
  T eps, weight_decay;
  T step_size;   // lr / (1 - beta1^t)
  T correction;  // sqrt(1 - beta2^t)
};

// Numbers [begin, end) of the flattened table; `grad` is that of number `begin`.
template <typename T, bool HasGrad>
MMFAST_INLINE void update(const Step<T>& s, int64_t begin, int64_t end, const T* grad) {
  T* __restrict param = s.param + begin;
  T* __restrict exp_avg = s.exp_avg + begin;
  T* __restrict exp_avg_sq = s.exp_avg_sq + begin;
  const T beta2 = s.beta2, rest1 = s.rest1, rest2 = s.rest2, eps = s.eps, decay = s.weight_decay;
  const T size = s.step_size, correction = s.correction;
  for (int64_t i = 0; i < end - begin; ++i) {
    const T g = (HasGrad ? grad[i] : T(0)) + decay * param[i];
    const T m = exp_avg[i] + rest1 * (g - exp_avg[i]);
    const T v = beta2 * exp_avg_sq[i] + rest2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    param[i] -= size * m / (std::sqrt(v) / correction + eps);
  }
}

// Rows [first, last): runs without a gradient are one long loop, rows with one a short loop each.
template <typename T>
MMFAST_INLINE void update_rows(const Step<T>& s, int64_t first, int64_t last) {
  int64_t k = std::lower_bound(s.rows, s.rows + s.num_rows, first) - s.rows;
  while (first < last) {
    const int64_t next = k < s.num_rows ? std::min(s.rows[k], last) : last;
    update<T, false>(s, first * s.width, next * s.width, nullptr);
    if (next == last) break;
    update<T, true>(s, next * s.width, (next + 1) * s.width, s.grad + k * s.width);
    first = next + 1;
    ++k;
  }
}

MMFAST_CLONES void update_range(const Step<float>& s, int64_t first, int64_t last) { update_rows(s, first, last); }
MMFAST_CLONES void update_range(const Step<double>& s, int64_t first, int64_t last) { update_rows(s, first, last); }

template <typename T>
void run(const at::Tensor& param, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq, const at::Tensor& rows,
         const at::Tensor& grad, double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step) {
  const double bias1 = 1 - std::pow(beta1, step), bias2 = 1 - std::pow(beta2, step);
  const Step<T> s{param.mutable_data_ptr<T>(),
                  exp_avg.mutable_data_ptr<T>(),
                  exp_avg_sq.mutable_data_ptr<T>(),
                  rows.const_data_ptr<int64_t>(),
                  grad.const_data_ptr<T>(),
                  rows.numel(),
                  param.size(1),
                  static_cast<T>(beta2),
                  static_cast<T>(1 - beta1),
                  static_cast<T>(1 - beta2),
                  static_cast<T>(eps),
                  static_cast<T>(weight_decay),
                  static_cast<T>(lr / bias1),
                  static_cast<T>(std::sqrt(bias2))};
  const int64_t count = param.size(0);
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), count));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t t = 0; t < threads; ++t) update_range(s, count * t / threads, count * (t + 1) / threads);
}

void adam_rows(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, const at::Tensor& rows,
               const at::Tensor& grad, double lr, double beta1, double beta2, double eps, double weight_decay,
               int64_t step) {
  const char* op = "adam_rows_";
  check_adam(param, exp_avg, exp_avg_sq, op);
  check_adam_step(rows, grad, param, step, op);
  const at::Tensor nodes = rows.contiguous(), dense = grad.contiguous();
  check_ids(nodes, param.size(0), op, "rows");
  const int64_t* r = nodes.const_data_ptr<int64_t>();
  TORCH_CHECK(std::adjacent_find(r, r + nodes.numel(), std::greater_equal<>()) == r + nodes.numel(), op,
              ": rows are not sorted and unique; coalesce the gradient");
  if (param.scalar_type() == at::kFloat) {
    run<float>(param, exp_avg, exp_avg_sq, nodes, dense, lr, beta1, beta2, eps, weight_decay, step);
  } else {
    run<double>(param, exp_avg, exp_avg_sq, nodes, dense, lr, beta1, beta2, eps, weight_decay, step);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("adam_rows_", &adam_rows); }

}  // namespace mmfast
