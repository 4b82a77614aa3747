// edge_attention on CUDA: checks, allocation, dispatch by type.
#include "edge_attention.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "../attention_checks.h"
#include "edges.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

AttentionArguments checked(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t,
                           const at::Tensor& rows_t, const at::Tensor& edges_t, const Optional& choice,
                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, cudaStream_t stream) {
  check_num_entries(cols, op);
  const int64_t entries = cols.numel();
  AttentionEntries e;
  e.ptr = checked_device_ptr(ptr, entries, q, op, "ptr", stream);
  e.ptr_t = checked_device_ptr(ptr_t, entries, q, op, "ptr_t", stream);
  e.cols = checked_device_list(cols, entries, ptr_t.numel() - 1, q, op, "cols", stream);
  e.rows_t = checked_device_list(rows_t, entries, ptr.numel() - 1, q, op, "rows_t", stream);
  e.edges_t = checked_device_list(edges_t, entries, entries, q, op, "edges_t", stream);
  return {op, e, choice, q, k, v};
}

template <typename T>
void forward(Attention<T> a, at::Tensor& out, at::Tensor& alpha, cudaStream_t stream) {
  a.out = out.mutable_data_ptr<T>(), a.alpha = alpha.mutable_data_ptr<T>();
  check(edge_attention_forward(a, stream));
}

template <typename T>
void backward(Attention<T> a, const at::Tensor& alpha, const at::Tensor& grad_out, const at::Tensor& grad_alpha,
              at::Tensor& grad_q, at::Tensor& grad_k, at::Tensor& grad_v, cudaStream_t stream) {
  at::Tensor slope = at::empty(alpha.sizes(), alpha.options());
  a.weights = alpha.const_data_ptr<T>(), a.slope = slope.mutable_data_ptr<T>();
  a.grad_out = grad_out.defined() ? grad_out.const_data_ptr<T>() : nullptr;
  a.grad_alpha = grad_alpha.defined() ? grad_alpha.const_data_ptr<T>() : nullptr;
  a.grad_q = grad_q.mutable_data_ptr<T>(), a.grad_k = grad_k.mutable_data_ptr<T>();
  a.grad_v = grad_v.mutable_data_ptr<T>();
  check(edge_attention_backward(a, stream));
}

std::tuple<at::Tensor, at::Tensor> edge_attention(const at::Tensor& ptr, const at::Tensor& cols,
                                                  const at::Tensor& ptr_t, const at::Tensor& rows_t,
                                                  const at::Tensor& edges_t, const Optional& choice,
                                                  const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                  double scale) {
  const DeviceScope scope(q);
  const AttentionArguments arguments =
      checked("edge_attention", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v, scope.stream());
  at::Tensor out = at::empty({q.size(0), v.size(1)}, q.options());
  at::Tensor alpha = at::empty({cols.numel()}, q.options());
  if (q.scalar_type() == at::kFloat) {
    forward(arguments.view<float>(scale), out, alpha, scope.stream());
  } else {
    forward(arguments.view<double>(scale), out, alpha, scope.stream());
  }
  return {out, alpha};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> edge_attention_backward_op(
    const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& rows_t,
    const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    double scale, const at::Tensor& alpha, const Optional& grad_out, const Optional& grad_alpha) {
  const DeviceScope scope(q);
  const char* op = "edge_attention_backward";
  const AttentionArguments arguments = checked(op, ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v, scope.stream());
  const at::Tensor weights = checked_like(alpha, {cols.numel()}, q, op, "alpha");
  const at::Tensor by_out = checked_like(grad_out, {q.size(0), v.size(1)}, q, op, "grad_out");
  const at::Tensor by_alpha = checked_like(grad_alpha, {cols.numel()}, q, op, "grad_alpha");
  at::Tensor grad_q = at::empty(q.sizes(), q.options()), grad_k = at::empty(k.sizes(), q.options());
  at::Tensor grad_v = at::empty(v.sizes(), q.options());
  if (q.scalar_type() == at::kFloat) {
    backward(arguments.view<float>(scale), weights, by_out, by_alpha, grad_q, grad_k, grad_v, scope.stream());
  } else {
    backward(arguments.view<double>(scale), weights, by_out, by_alpha, grad_q, grad_k, grad_v, scope.stream());
  }
  return {grad_q, grad_k, grad_v};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("edge_attention", &edge_attention);
  m.impl("edge_attention_backward", &edge_attention_backward_op);
}

}  // namespace mmfast
