// Arguments of the Adam ops, checked alike on every device; the values of ids are left to the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "check.h"
#include "replay.h"

namespace mmfast {

// The tables that a step writes.
inline void check_adam(const at::Tensor& param, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                       const char* op) {
  check_dim(param, 2, op, "param");
  check_real(param, op, "param");
  for (const auto& [name, t] : {std::pair{"param", &param}, {"exp_avg", &exp_avg}, {"exp_avg_sq", &exp_avg_sq}}) {
    check_like(*t, param, op, name);
    TORCH_CHECK(t->sizes() == param.sizes(), op, ": ", name, " is ", t->sizes(), "; wanted ", param.sizes());
    TORCH_CHECK(t->is_contiguous(), op, ": ", name, " is not contiguous and is written in place; wanted a whole table");
  }
}

inline void check_row_steps(const at::Tensor& row_steps, const at::Tensor& param, const char* op) {
  check_dtype(row_steps, at::kInt, op, "row_steps");
  check_device(row_steps, param, op, "row_steps");
  TORCH_CHECK(
      row_steps.is_contiguous() && row_steps.dim() == 2 && row_steps.size(0) == param.size(0) && row_steps.size(1) == 2,
      op, ": row_steps is ", row_steps.sizes(), "; wanted a contiguous [", param.size(0), ", 2]");
}

// The settings of a table whose rows wait.
inline AdamSettings checked_waiting(double lr, double beta1, double beta2, double eps, const char* op) {
  const AdamSettings set{lr, beta1, beta2, eps};
  TORCH_CHECK(can_wait(set), op, ": beta1 is ", beta1, ", beta2 ", beta2,
              "; wanted beta1 below sqrt(beta2), or a row that waits moves further at every step; step all rows with "
              "adam_rows_");
  return set;
}

// No row of `rows` (all where null; on the CPU) is made up to a later step than `most`: its steps would be made twice.
inline void check_made(const int32_t* row_steps, const int64_t* rows, int64_t count, int64_t most, int64_t step,
                       const char* op) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows ? rows[i] : i;
    TORCH_CHECK(row_steps[2 * row] <= most, op, ": row ", row, " is made up to step ", row_steps[2 * row], "; wanted ",
                most, " or less for step ", step);
  }
}

// The gradient [B, D] of B rows.
inline void check_rows_grad(const at::Tensor& rows, const at::Tensor& grad, const at::Tensor& param, const char* op) {
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  check_device(rows, param, op, "rows");
  check_dim(grad, 2, op, "grad");
  check_like(grad, param, op, "grad");
  check_size(grad, 0, rows.numel(), op, "grad");
  check_size(grad, 1, param.size(1), op, "grad");
}

// The tensor of a step's number, whose value is left to the device.
inline void check_step(const at::Tensor& step, const at::Tensor& param, const char* op) {
  check_dtype(step, at::kLong, op, "step");
  check_device(step, param, op, "step");
  TORCH_CHECK(step.numel() == 1, op, ": step holds ", step.numel(), " numbers; wanted one");
}

// That number, on the CPU.
inline int64_t checked_step(const at::Tensor& step, const at::Tensor& param, int64_t least, const char* op) {
  check_step(step, param, op);
  const auto number = step.item<int64_t>();
  check_number(number, least, kMostSteps, op, "step");
  return number;
}

}  // namespace mmfast
