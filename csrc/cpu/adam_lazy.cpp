// Adam on the rows that a batch touched. The other rows wait; what they miss is made up when they are read.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "../adam.h"
#include "../adam_checks.h"
#include "../replay.h"
#include "simd.h"

namespace mmfast {
namespace {

template <typename T>
struct Table {
  T* param;
  T* exp_avg;
  T* exp_avg_sq;
  int32_t* row_steps;  // [N, 2]
  int64_t width;
};

// A row whose number `row` waits: param since step `param`, moments since step `moments`.
struct Job {
  int64_t row;
  int32_t param, moments;
};

// A rule in the numbers of the table, for moments that are some steps older than the parameters.
template <typename T>
struct Rule {
  int points;
  T weight, eps, center[kRulePoints], spread[kRulePoints];

  Rule(const ReplayRule& rule, const AdamSettings& set, int64_t older)
      : points(rule.points), eps(static_cast<T>(set.eps)) {
    const double decay2 = std::pow(set.beta2, older), root2 = std::sqrt(decay2);
    weight = static_cast<T>(set.lr * rule.weight * std::pow(set.beta1, older));
    for (int l = 0; l < kRulePoints; ++l) {
      center[l] = static_cast<T>(rule.center[l] * root2);
      spread[l] = static_cast<T>(rule.spread[l] * decay2);
    }
  }
};

template <typename T, int Points>
MMFAST_INLINE void replay(const Rule<T>& rule, int64_t width, const T* __restrict m, const T* __restrict v,
                          T* __restrict param) {
  const T weight = rule.weight, eps = rule.eps;
  for (int64_t i = 0; i < width; ++i) {
    const T s = std::sqrt(v[i]);
    T below = rule.center[Points - 1] * s + eps;
#pragma GCC unroll 4
    for (int l = Points - 2; l >= 0; --l) below = rule.center[l] * s + eps - rule.spread[l + 1] * v[i] / below;
    param[i] -= weight * m[i] / below;
  }
}

template <typename T>
MMFAST_INLINE void replay_row(const Rule<T>& rule, int64_t width, const T* m, const T* v, T* param) {
  static_assert(kRulePoints == 4);
  switch (rule.points) {
    case 1:
      return replay<T, 1>(rule, width, m, v, param);
    case 2:
      return replay<T, 2>(rule, width, m, v, param);
    case 3:
      return replay<T, 3>(rule, width, m, v, param);
    default:
      return replay<T, 4>(rule, width, m, v, param);
  }
}

template <typename T>
MMFAST_INLINE void scale_row(T factor, int64_t width, T* x) {
  for (int64_t i = 0; i < width; ++i) x[i] *= factor;
}

// One step with a gradient from moments that are older by decay1 and decay2.
template <typename T>
MMFAST_INLINE void step_row(const AdamStep<T>& shared, T decay1, T decay2, int64_t width, const T* __restrict grad,
                            T* __restrict m, T* __restrict v, T* __restrict param) {
  const AdamStep<T> step = shared;
  for (int64_t i = 0; i < width; ++i) {
    T mean = decay1 * m[i], square = decay2 * v[i];
    param[i] -= step.move(grad[i], mean, square);
    m[i] = mean;
    v[i] = square;
  }
}

#define MMFAST_INSTANTIATE(T)                                                                                        \
  MMFAST_CLONES void replay_one(const Rule<T>& rule, int64_t width, const T* m, const T* v, T* param) {              \
    replay_row(rule, width, m, v, param);                                                                            \
  }                                                                                                                  \
  MMFAST_CLONES void scale_one(T factor, int64_t width, T* x) { scale_row(factor, width, x); }                       \
  MMFAST_CLONES void step_one(const AdamStep<T>& step, T decay1, T decay2, int64_t width, const T* grad, T* m, T* v, \
                              T* param) {                                                                            \
    step_row(step, decay1, decay2, width, grad, m, v, param);                                                        \
  }
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

// The rules of every step since which a row waits, by place in `since`, sorted.
struct Plans {
  std::vector<int32_t> since;
  std::vector<std::vector<ReplayRule>> rules;

  const std::vector<ReplayRule>& of(int32_t step) const {
    return rules[std::lower_bound(since.begin(), since.end(), step) - since.begin()];
  }
};

Plans make_plans(const std::vector<Job>& jobs, const AdamSettings& set, int64_t step, double tolerance) {
  Plans plans;
  for (const Job& job : jobs) plans.since.push_back(job.param);
  std::sort(plans.since.begin(), plans.since.end());
  plans.since.erase(std::unique(plans.since.begin(), plans.since.end()), plans.since.end());
  plans.rules.resize(plans.since.size());
  if (plans.since.empty() || set.lr == 0 || set.beta1 == 0) return plans;
  const int64_t first = plans.since.front(), length = step - first + 1;
  std::vector<double> decay1(length), decay2(length), bias1(length), bias2(length);
  for (int64_t j = 0; j < length; ++j) {
    const auto steps = static_cast<double>(j), done = static_cast<double>(first + j);
    decay1[j] = std::pow(set.beta1, steps);
    decay2[j] = std::pow(set.beta2, steps / 2);
    bias1[j] = 1 / (1 - std::pow(set.beta1, done));
    bias2[j] = 1 / std::sqrt(1 - std::pow(set.beta2, done));
  }
#pragma omp parallel for schedule(dynamic) num_threads(at::get_num_threads())
  for (size_t i = 0; i < plans.since.size(); ++i) {
    const int64_t t = plans.since[i];
    const ReplayAtoms atoms{decay1.data(), decay2.data(), bias1.data(), bias2.data(), t - first};
    for_rules(atoms, OneLane(), steps_that_count(set, step - t, tolerance), tolerance,
              [&](const ReplayRule& rule) { plans.rules[i].push_back(rule); });
  }
  return plans;
}

// Takes the rows that wait out of `rows` (all rows if null) and marks them as caught up; repeats are taken once.
template <typename T>
std::vector<Job> take_jobs(const Table<T>& table, const int64_t* rows, int64_t count, int64_t step) {
  std::vector<Job> jobs;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows == nullptr ? i : rows[i];
    int32_t* steps = table.row_steps + 2 * row;
    const bool behind = steps[0] < step || (rows == nullptr && steps[1] < step);
    if (behind && steps[1] > 0) jobs.push_back({row, steps[0], steps[1]});
    steps[0] = std::max(steps[0], static_cast<int32_t>(step));
    if (rows == nullptr && steps[1] > 0) steps[1] = steps[0];
  }
  return jobs;
}

template <typename T>
void catch_up(const Table<T>& table, const int64_t* rows, int64_t count, const AdamSettings& set, int64_t step) {
  const std::vector<Job> jobs = take_jobs(table, rows, count, step);
  const Plans plans = make_plans(jobs, set, step, kRuleError<T>);
#pragma omp parallel for schedule(dynamic, 16) num_threads(at::get_num_threads())
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Job& job = jobs[i];
    const int64_t at = job.row * table.width;
    T* m = table.exp_avg + at;
    T* v = table.exp_avg_sq + at;
    for (const ReplayRule& rule : plans.of(job.param)) {
      replay_one(Rule<T>(rule, set, job.param - job.moments), table.width, m, v, table.param + at);
    }
    if (rows == nullptr) {
      scale_one(static_cast<T>(std::pow(set.beta1, step - job.moments)), table.width, m);
      scale_one(static_cast<T>(std::pow(set.beta2, step - job.moments)), table.width, v);
    }
  }
}

template <typename T>
void step_rows(const Table<T>& table, const int64_t* rows, int64_t count, const T* grad, const AdamSettings& set,
               int64_t step) {
  catch_up(table, rows, count, set, step - 1);
  const AdamStep<T> shared(set, step);
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t i = 0; i < count; ++i) {
    int32_t* steps = table.row_steps + 2 * rows[i];
    const auto older = static_cast<double>(step - 1 - steps[1]);
    const auto decay1 = static_cast<T>(std::pow(set.beta1, older)), decay2 = static_cast<T>(std::pow(set.beta2, older));
    const int64_t at = rows[i] * table.width;
    step_one(shared, decay1, decay2, table.width, grad + i * table.width, table.exp_avg + at, table.exp_avg_sq + at,
             table.param + at);
    steps[0] = steps[1] = static_cast<int32_t>(step);
  }
}

template <typename T>
Table<T> table_of(const at::Tensor& param, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                  const at::Tensor& row_steps) {
  return {param.mutable_data_ptr<T>(), exp_avg.mutable_data_ptr<T>(), exp_avg_sq.mutable_data_ptr<T>(),
          row_steps.mutable_data_ptr<int32_t>(), param.size(1)};
}

// In any order, repeats allowed.
at::Tensor checked_ids(const char* op, const at::Tensor& rows, const at::Tensor& param) {
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  at::Tensor ids = rows.contiguous();
  check_ids(ids, param.size(0), op, "rows");
  return ids;
}

void adam_catch_up(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
                   const std::optional<at::Tensor>& rows, double lr, double beta1, double beta2, double eps,
                   const at::Tensor& step) {
  const char* op = "adam_catch_up_";
  check_adam(param, exp_avg, exp_avg_sq, op);
  check_row_steps(row_steps, param, op);
  const int64_t last = checked_step(step, param, 0, op);
  const at::Tensor ids = rows ? checked_ids(op, *rows, param) : at::Tensor();
  const int64_t* r = rows ? ids.const_data_ptr<int64_t>() : nullptr;
  const int64_t count = rows ? ids.numel() : param.size(0);
  check_made(row_steps.const_data_ptr<int32_t>(), r, count, last, last, op);
  const AdamSettings set = checked_waiting(lr, beta1, beta2, eps, op);
  if (param.scalar_type() == at::kFloat) {
    catch_up(table_of<float>(param, exp_avg, exp_avg_sq, row_steps), r, count, set, last);
  } else {
    catch_up(table_of<double>(param, exp_avg, exp_avg_sq, row_steps), r, count, set, last);
  }
}

void adam_lazy(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
               const at::Tensor& rows, const at::Tensor& grad, double lr, double beta1, double beta2, double eps,
               const at::Tensor& step) {
  const char* op = "adam_lazy_";
  check_adam(param, exp_avg, exp_avg_sq, op);
  check_row_steps(row_steps, param, op);
  check_rows_grad(rows, grad, param, op);
  const int64_t number = checked_step(step, param, 1, op);
  const at::Tensor ids = checked_rows(rows, param.size(0), op, "coalesce the gradient"), dense = grad.contiguous();
  const int64_t* r = ids.const_data_ptr<int64_t>();
  check_made(row_steps.const_data_ptr<int32_t>(), r, ids.numel(), number - 1, number, op);
  const AdamSettings set = checked_waiting(lr, beta1, beta2, eps, op);
  if (param.scalar_type() == at::kFloat) {
    step_rows(table_of<float>(param, exp_avg, exp_avg_sq, row_steps), r, ids.numel(), dense.const_data_ptr<float>(),
              set, number);
  } else {
    step_rows(table_of<double>(param, exp_avg, exp_avg_sq, row_steps), r, ids.numel(), dense.const_data_ptr<double>(),
              set, number);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("adam_catch_up_", &adam_catch_up);
  m.impl("adam_lazy_", &adam_lazy);
}

}  // namespace mmfast
