// edge_attention on CUDA: checks, allocation, dispatch by type.
#include "edge_attention.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "edges.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

// The arguments of both passes, checked and contiguous.
class Arguments {
 public:
  Arguments(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t,
            const at::Tensor& rows_t, const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q,
            const at::Tensor& k, const at::Tensor& v, cudaStream_t stream) {
    const int64_t entries = cols.numel();
    TORCH_CHECK(entries < (int64_t(1) << 31), op, ": there are ", entries, " entries; wanted less than 2^31");
    ptr_ = checked_device_ptr(ptr, entries, q, op, "ptr", stream),
    ptr_t_ = checked_device_ptr(ptr_t, entries, q, op, "ptr_t", stream);
    num_rows_ = ptr.numel() - 1, num_cols_ = ptr_t.numel() - 1;
    cols_ = checked_device_list(cols, entries, num_cols_, q, op, "cols", stream);
    rows_t_ = checked_device_list(rows_t, entries, num_rows_, q, op, "rows_t", stream);
    edges_t_ = checked_device_list(edges_t, entries, entries, q, op, "edges_t", stream);
    if (choice) {
      check_dim(*choice, 1, op, "choice");
      check_size(*choice, 0, entries, op, "choice");
      check_dtype(*choice, at::kBool, op, "choice");
      check_device(*choice, q, op, "choice");
      choice_ = choice->contiguous();
    }
    check_real(q, op, "q");
    q_ = table(q, num_rows_, q, op, "q");
    k_ = table(k, num_cols_ * (choice ? 2 : 1), q, op, "k");
    v_ = table(v, num_cols_ * (choice ? 2 : 1), q, op, "v");
    check_size(k, 1, q.size(1), op, "k");
  }

  template <typename T>
  DeviceAttention<T> view(double scale) const {
    DeviceAttention<T> a{};
    a.ptr = ptr_.const_data_ptr<int64_t>(), a.ptr_t = ptr_t_.const_data_ptr<int64_t>();
    a.cols = cols_.const_data_ptr<int32_t>(), a.rows_t = rows_t_.const_data_ptr<int32_t>();
    a.edges_t = edges_t_.const_data_ptr<int32_t>();
    a.choice = choice_.defined() ? choice_.const_data_ptr<bool>() : nullptr;
    a.num_rows = num_rows_, a.num_cols = num_cols_;
    a.q = q_.const_data_ptr<T>(), a.k = k_.const_data_ptr<T>(), a.v = v_.const_data_ptr<T>();
    a.dim = q_.size(1), a.dim_v = v_.size(1);
    a.scale = static_cast<T>(scale);
    return a;
  }

 private:
  static at::Tensor table(const at::Tensor& t, int64_t rows, const at::Tensor& q, const char* op, const char* name) {
    check_dim(t, 2, op, name);
    check_size(t, 0, rows, op, name);
    check_dtype(t, q.scalar_type(), op, name);
    check_device(t, q, op, name);
    return t.contiguous();
  }

  at::Tensor ptr_, cols_, ptr_t_, rows_t_, edges_t_, choice_, q_, k_, v_;
  int64_t num_rows_ = 0, num_cols_ = 0;
};

template <typename T>
void forward(DeviceAttention<T> a, at::Tensor& out, at::Tensor& alpha, cudaStream_t stream) {
  a.out = out.mutable_data_ptr<T>(), a.alpha = alpha.mutable_data_ptr<T>();
  check(edge_attention_forward(a, stream));
}

template <typename T>
void backward(DeviceAttention<T> a, const at::Tensor& alpha, const at::Tensor& grad_out, const at::Tensor& grad_alpha,
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
  const Arguments arguments("edge_attention", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v, scope.stream());
  at::Tensor out = at::empty({q.size(0), v.size(1)}, q.options());
  at::Tensor alpha = at::empty({cols.numel()}, q.options());
  if (q.scalar_type() == at::kFloat) {
    forward(arguments.view<float>(scale), out, alpha, scope.stream());
  } else {
    forward(arguments.view<double>(scale), out, alpha, scope.stream());
  }
  return {out, alpha};
}

at::Tensor checked_grad(const Optional& grad, at::IntArrayRef sizes, const at::Tensor& q, const char* name) {
  if (!grad) return {};
  check_dtype(*grad, q.scalar_type(), "edge_attention_backward", name);
  check_device(*grad, q, "edge_attention_backward", name);
  TORCH_CHECK(grad->sizes() == sizes, "edge_attention_backward: ", name, " is ", grad->sizes(), "; wanted ", sizes);
  return grad->contiguous();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> edge_attention_backward_op(
    const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& rows_t,
    const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    double scale, const at::Tensor& alpha, const Optional& grad_out, const Optional& grad_alpha) {
  const DeviceScope scope(q);
  const Arguments arguments("edge_attention_backward", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v,
                            scope.stream());
  const at::Tensor weights = checked_grad(alpha, {cols.numel()}, q, "alpha");
  const at::Tensor by_out = checked_grad(grad_out, {q.size(0), v.size(1)}, q, "grad_out");
  const at::Tensor by_alpha = checked_grad(grad_alpha, {cols.numel()}, q, "grad_alpha");
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
