// Binds row-lazy Adam.
#include "adam_lazy.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <utility>

#include "bind.h"

namespace mmfast {
namespace {

struct State {
  const at::Tensor &param, &exp_avg, &exp_avg_sq, &row_steps;

  void check(const char* op, int64_t step) const {
    check_dim(param, 2, op, "param");
    check_real(param, op, "param");
    for (const auto& [t, name] :
         {std::pair{param, "param"}, std::pair{exp_avg, "exp_avg"}, std::pair{exp_avg_sq, "exp_avg_sq"}}) {
      check_device(t, param, op, name);
      check_dtype(t, param.scalar_type(), op, name);
      TORCH_CHECK(t.sizes() == param.sizes(), op, ": ", name, " is ", t.sizes(), "; wanted ", param.sizes());
      TORCH_CHECK(t.is_contiguous(), op, ": ", name,
                  " is not contiguous and is written in place; wanted a whole table");
    }
    check_device(row_steps, param, op, "row_steps");
    check_dtype(row_steps, at::kInt, op, "row_steps");
    TORCH_CHECK(row_steps.is_contiguous() && row_steps.dim() == 2 && row_steps.size(0) == param.size(0) &&
                    row_steps.size(1) == 2,
                op, ": row_steps is ", row_steps.sizes(), "; wanted a contiguous [", param.size(0), ", 2]");
    TORCH_CHECK(step >= 0 && step < (int64_t{1} << 31), op, ": step is ", step, "; wanted 0 to 2^31 - 1");
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
void catch_up(const State& state, const int64_t* rows, int64_t count, const AdamSettings& set, int64_t step,
              cudaStream_t stream) {
  const at::Tensor powers = at::empty({4, adam_powers_length<T>(set, step)}, state.param.options().dtype(at::kDouble));
  check(adam_catch_up(state.view<T>(), rows, count, set, step, powers.mutable_data_ptr<double>(), stream));
}

void adam_catch_up_op(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
                      const std::optional<at::Tensor>& rows, double lr, double beta1, double beta2, double eps,
                      int64_t step) {
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
  const AdamSettings set{lr, beta1, beta2, eps};
  if (count == 0) return;  // an empty list has no address, which would stand for all rows
  param.scalar_type() == at::kFloat ? catch_up<float>(state, r, count, set, step, scope.stream())
                                    : catch_up<double>(state, r, count, set, step, scope.stream());
}

void adam_lazy_op(at::Tensor& param, at::Tensor& exp_avg, at::Tensor& exp_avg_sq, at::Tensor& row_steps,
                  const at::Tensor& rows, const at::Tensor& grad, double lr, double beta1, double beta2, double eps,
                  int64_t step) {
  const char* op = "adam_lazy_";
  const DeviceScope scope(param);
  const State state{param, exp_avg, exp_avg_sq, row_steps};
  state.check(op, step);
  TORCH_CHECK(step >= 1, op, ": step is ", step, "; wanted 1 for the first step");
  check_device(rows, param, op, "rows");
  const at::Tensor ids = checked_device_rows(rows, param.size(0), op, scope.stream(), "coalesce the gradient");
  const at::Tensor dense = grad.contiguous();
  check_dim(grad, 2, op, "grad");
  check_dtype(grad, param.scalar_type(), op, "grad");
  check_device(grad, param, op, "grad");
  check_size(grad, 0, ids.numel(), op, "grad");
  check_size(grad, 1, param.size(1), op, "grad");
  if (ids.numel() == 0) return;
  const AdamSettings set{lr, beta1, beta2, eps};
  const auto run = [&]<typename T>(T) {
    const int64_t* r = ids.const_data_ptr<int64_t>();
    catch_up<T>(state, r, ids.numel(), set, step - 1, scope.stream());
    check(adam_lazy_step(state.view<T>(), r, ids.numel(), dense.const_data_ptr<T>(), set, step, scope.stream()));
  };
  param.scalar_type() == at::kFloat ? run(float{}) : run(double{});
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("adam_catch_up_", &adam_catch_up_op);
  m.impl("adam_lazy_", &adam_lazy_op);
}

}  // namespace mmfast
