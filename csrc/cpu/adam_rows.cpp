// One step of Adam on a whole table whose gradient is zero outside `rows`, in one pass over table and moments.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>

#include "../adam.h"
#include "../adam_checks.h"
#include "simd.h"

namespace mmfast {
namespace {

template <typename T>
struct Table {
  T* param;
  T* exp_avg;
  T* exp_avg_sq;
  const int64_t* rows;
  const T* grad;
  int64_t num_rows;  // rows with a gradient
  int64_t width;
  AdamStep<T> step;
  T weight_decay;
};

// Numbers [begin, end) of the flattened table; `grad` is that of number `begin`.
template <typename T, bool HasGrad>
MMFAST_INLINE void update(const Table<T>& t, int64_t begin, int64_t end, const T* grad) {
  T* __restrict param = t.param + begin;
  T* __restrict exp_avg = t.exp_avg + begin;
  T* __restrict exp_avg_sq = t.exp_avg_sq + begin;
  const AdamStep<T> step = t.step;
  const T decay = t.weight_decay;
  for (int64_t i = 0; i < end - begin; ++i) {
    T m = exp_avg[i], v = exp_avg_sq[i];
    param[i] -= step.move((HasGrad ? grad[i] : T(0)) + decay * param[i], m, v);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
  }
}

// Rows [first, last): runs without a gradient are one long loop, rows with one a short loop each.
template <typename T>
MMFAST_INLINE void update_rows(const Table<T>& t, int64_t first, int64_t last) {
  int64_t k = std::lower_bound(t.rows, t.rows + t.num_rows, first) - t.rows;
  while (first < last) {
    const int64_t next = k < t.num_rows ? std::min(t.rows[k], last) : last;
    update<T, false>(t, first * t.width, next * t.width, nullptr);
    if (next == last) break;
    update<T, true>(t, next * t.width, (next + 1) * t.width, t.grad + k * t.width);
    first = next + 1;
    ++k;
  }
}

MMFAST_CLONES void update_range(const Table<float>& t, int64_t first, int64_t last) { update_rows(t, first, last); }
MMFAST_CLONES void update_range(const Table<double>& t, int64_t first, int64_t last) { update_rows(t, first, last); }

template <typename T>
void run(const Table<T>& table, int64_t count) {
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), count));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t t = 0; t < threads; ++t) update_range(table, count * t / threads, count * (t + 1) / threads);
}

void adam_rows(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, const at::Tensor& rows,
               const at::Tensor& grad, double lr, double beta1, double beta2, double eps, double weight_decay,
               const at::Tensor& step) {
  const char* op = "adam_rows_";
  check_adam(param, exp_avg, exp_avg_sq, op);
  check_rows_grad(rows, grad, param, op);
  const int64_t number = checked_step(step, param, 1, op);
  const at::Tensor nodes = checked_rows(rows, param.size(0), op, "coalesce the gradient"), dense = grad.contiguous();
  const auto step_in = [&]<typename T>(T) {
    run(Table<T>{param.mutable_data_ptr<T>(), exp_avg.mutable_data_ptr<T>(), exp_avg_sq.mutable_data_ptr<T>(),
                 nodes.const_data_ptr<int64_t>(), dense.const_data_ptr<T>(), nodes.numel(), param.size(1),
                 AdamStep<T>({lr, beta1, beta2, eps}, number), static_cast<T>(weight_decay)},
        param.size(0));
  };
  param.scalar_type() == at::kFloat ? step_in(float{}) : step_in(double{});
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("adam_rows_", &adam_rows); }

}  // namespace mmfast
