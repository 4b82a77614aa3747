// edge_softmax on CUDA: checks, allocation, dispatch by type.
#include "edge_softmax.h"

#include <ATen/ops/empty.h>

#include "edges.h"

namespace mmfast {
namespace {

at::Tensor edge_softmax(const at::Tensor& ptr, const at::Tensor& logits) {
  const char* op = "edge_softmax";
  check_real(logits, op, "logits");
  TORCH_CHECK(logits.dim() == 1 || logits.dim() == 2, op, ": logits has ", logits.dim(), " dimensions; wanted 1 or 2");
  const DeviceScope scope(logits);
  const at::Tensor rows = checked_device_ptr(ptr, logits.size(0), logits, op, "ptr", scope.stream());
  const at::Tensor in = logits.contiguous();
  at::Tensor out = at::empty(in.sizes(), in.options());
  const int64_t count = rows.numel() - 1, heads = in.dim() == 2 ? in.size(1) : 1;
  const int64_t* p = rows.const_data_ptr<int64_t>();
  check(in.scalar_type() == at::kFloat ? edge_softmax_forward(p, count, heads, in.const_data_ptr<float>(),
                                                              out.mutable_data_ptr<float>(), scope.stream())
                                       : edge_softmax_forward(p, count, heads, in.const_data_ptr<double>(),
                                                              out.mutable_data_ptr<double>(), scope.stream()));
  return out;
}

template <typename T>
void backward(const at::Tensor& ptr, const at::Tensor& grad, const at::Tensor& alpha, at::Tensor& out,
              cudaStream_t stream) {
  check(edge_softmax_backward(ptr.const_data_ptr<int64_t>(), ptr.numel() - 1, alpha.dim() == 2 ? alpha.size(1) : 1,
                              grad.const_data_ptr<T>(), alpha.const_data_ptr<T>(), out.mutable_data_ptr<T>(), stream));
}

at::Tensor edge_softmax_backward_op(const at::Tensor& ptr, const at::Tensor& grad, const at::Tensor& alpha) {
  const char* op = "edge_softmax_backward";
  check_real(alpha, op, "alpha");
  check_dtype(grad, alpha.scalar_type(), op, "grad");
  check_device(grad, alpha, op, "grad");
  TORCH_CHECK(grad.sizes() == alpha.sizes(), op, ": grad is ", grad.sizes(), "; wanted ", alpha.sizes());
  const DeviceScope scope(alpha);
  const at::Tensor rows = checked_device_ptr(ptr, alpha.size(0), alpha, op, "ptr", scope.stream());
  const at::Tensor in = grad.contiguous(), weights = alpha.contiguous();
  at::Tensor out = at::empty(alpha.sizes(), alpha.options());
  if (alpha.scalar_type() == at::kFloat) {
    backward<float>(rows, in, weights, out, scope.stream());
  } else {
    backward<double>(rows, in, weights, out, scope.stream());
  }
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("edge_softmax", &edge_softmax);
  m.impl("edge_softmax_backward", &edge_softmax_backward_op);
}

}  // namespace mmfast
