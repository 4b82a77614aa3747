// Binds row-lazy Adam.
#include "adam_lazy.h"

#include <ATen/ops/empty.h>

#include <optional>

#include "../adam_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

struct State {
  const at::Tensor &param, &exp_avg, &exp_avg_sq, &row_steps;

  void check(const char* op, const at::Tensor& step) const {
    check_adam(param, exp_avg, exp_avg_sq, op);
    check_row_steps(row_steps, param, op);
    check_step(step, param, op);
  }

  // Rows of null: all of them. See check_on_device of bind.h.
  void check_steps(const at::Tensor* rows, const at::Tensor& step, int64_t less, const char* op,
                   cudaStream_t stream) const {
    check_device_number(step, less, kMostSteps, op, "step", stream);
    const int64_t count = rows ? rows->numel() : param.size(0);
    const auto on_device = [&] {
      return adam_check_made(row_steps.const_data_ptr<int32_t>(), rows ? rows->const_data_ptr<int64_t>() : nullptr,
                             count, {step.const_data_ptr<int64_t>(), less}, label_of(op, "row_steps"), stream);
    };
    const auto on_host = [&] {
      const at::Tensor made = row_steps.cpu(), ids = rows ? rows->cpu() : at::Tensor();
      const auto number = step.item<int64_t>();
      check_made(made.const_data_ptr<int32_t>(), rows ? ids.const_data_ptr<int64_t>() : nullptr, count, number - less,
                 number, op);
    };
    check_on_device(on_device, on_host);
  }

  template <typename T>
  LazyTable<T> view() const {
    return {param.mutable_data_ptr<T>(),
            exp_avg.mutable_data_ptr<T>(),
            exp_avg_sq.mutable_data_ptr<T>(),
            row_steps.mutable_data_ptr<int32_t>(),
            param.size(0),
            param.size(1)};
  }
};

// Rows of null: all of them.
template <typename T>
void catch_up(const State& state, const int64_t* rows, int64_t count, const AdamSettings& set, StepNumber last,
              cudaStream_t stream) {
  const at::Tensor powers = at::empty({4, adam_powers_length<T>(set)}, state.param.options().dtype(at::kDouble));
  check(adam_catch_up(state.view<T>(), rows, count, set, last, powers.mutable_data_ptr<double>(), stream));
}

void adam_catch_up_op(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
                      const std::optional<at::Tensor>& rows, double lr, double beta1, double beta2, double eps,
                      const at::Tensor& step) {
  const char* op = "adam_catch_up_";
  const DeviceScope scope(param);
  const State state{param, exp_avg, exp_avg_sq, row_steps};
  state.check(op, step);
  at::Tensor ids;
  if (rows) {
    check_dim(*rows, 1, op, "rows");
    check_dtype(*rows, at::kLong, op, "rows");
    check_device(*rows, param, op, "rows");
    ids = rows->contiguous();
    check_device_ids(ids, param.size(0), op, "rows", scope.stream());
  }
  const int64_t* r = rows ? ids.const_data_ptr<int64_t>() : nullptr;
  const int64_t count = rows ? ids.numel() : param.size(0);
  const AdamSettings set = checked_waiting(lr, beta1, beta2, eps, op);
  if (count == 0) return;  // an empty list has no address, which would stand for all rows
  state.check_steps(rows ? &ids : nullptr, step, 0, op, scope.stream());
  const StepNumber last{step.const_data_ptr<int64_t>(), 0};
  param.scalar_type() == at::kFloat ? catch_up<float>(state, r, count, set, last, scope.stream())
                                    : catch_up<double>(state, r, count, set, last, scope.stream());
}

void adam_lazy_op(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
                  const at::Tensor& rows, const at::Tensor& grad, double lr, double beta1, double beta2, double eps,
                  const at::Tensor& step) {
  const char* op = "adam_lazy_";
  const DeviceScope scope(param);
  const State state{param, exp_avg, exp_avg_sq, row_steps};
  state.check(op, step);
  check_rows_grad(rows, grad, param, op);
  const at::Tensor ids = checked_device_rows(rows, param.size(0), op, scope.stream(), "coalesce the gradient");
  const at::Tensor dense = grad.contiguous();
  const AdamSettings set = checked_waiting(lr, beta1, beta2, eps, op);
  if (ids.numel() == 0) return;
  state.check_steps(&ids, step, 1, op, scope.stream());
  const auto* number = step.const_data_ptr<int64_t>();
  const auto run = [&]<typename T>(T) {
    const int64_t* r = ids.const_data_ptr<int64_t>();
    catch_up<T>(state, r, ids.numel(), set, {number, 1}, scope.stream());
    check(adam_lazy_step(state.view<T>(), r, ids.numel(), dense.const_data_ptr<T>(), set, number, scope.stream()));
  };
  param.scalar_type() == at::kFloat ? run(float{}) : run(double{});
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("adam_catch_up_", &adam_catch_up_op);
  m.impl("adam_lazy_", &adam_lazy_op);
}

}  // namespace mmfast
