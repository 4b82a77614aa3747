// The matrix products of the searches: how they are rounded is what csrc/cpu/proposals.h has proved bounds for.
#pragma once
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

namespace mmfast {

// While it lives, sums of products are float32 whatever torch is told: no TF32, and no bfloat16 partial sums.
class FullSums {
 public:
  FullSums() { at::globalContext().setAllowBF16ReductionCuBLAS(false); }
  ~FullSums() {
    at::globalContext().setAllowBF16ReductionCuBLAS(
        before_ == at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK,
        before_ != at::CuBLASReductionOption::DisallowReducedPrecisionDisallowSplitK);
  }
  FullSums(const FullSums&) = delete;
  FullSums& operator=(const FullSums&) = delete;

 private:
  const at::AutoDispatchBelowADInplaceOrView below_autograd_;
  const at::NoTF32Guard no_tf32_;
  const at::CuBLASReductionOption before_ = at::globalContext().allowBF16ReductionCuBLAS();
};

// out [R, C] = rows [R, D] times columns [C, D] transposed, which may be of bfloat16.
inline void multiply(const at::Tensor& rows, const at::Tensor& columns, at::Tensor& out) {
  if (rows.scalar_type() == out.scalar_type()) {
    at::mm_out(out, rows, columns.t());
  } else {
    out.copy_(at::mm(rows, columns.t()));
  }
}

}  // namespace mmfast
