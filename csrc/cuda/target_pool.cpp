// target_pool on CUDA: checks, allocation, dispatch by type.
#include "target_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <tuple>

#include "edges.h"

namespace mmfast {
namespace {

// What both passes take, checked and contiguous.
struct Arguments {
  at::Tensor aux, ptr, attention;
  int64_t rows;

  Arguments(const char* op, const at::Tensor& like, const at::Tensor& aux_in, const at::Tensor& ptr_in,
            const at::Tensor& attention_in, cudaStream_t stream)
      : aux(aux_in.contiguous()), attention(attention_in.contiguous()), rows(like.size(0)) {
    check_dim(aux, 2, op, "aux");
    check_real(aux, op, "aux");
    check_device(aux, like, op, "aux");
    check_dim(attention, 1, op, "attention");
    check_dtype(attention, aux.scalar_type(), op, "attention");
    check_size(attention, 0, 2 * aux.size(1), op, "attention");
    check_device(attention, like, op, "attention");
    ptr = checked_device_ptr(ptr_in, aux.size(0), aux, op, "ptr", stream);
    check_size(ptr, 0, rows + 1, op, "ptr");
  }

  template <typename T>
  PoolRows<T> view() const {
    const int64_t dim = aux.size(1);
    return {aux.const_data_ptr<T>(), ptr.const_data_ptr<int64_t>(), attention.const_data_ptr<T>() + dim, rows, dim};
  }
};

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& target, const at::Tensor& aux, const at::Tensor& ptr,
                                           const at::Tensor& attention) {
  const char* op = "target_pool";
  const DeviceScope scope(target);
  check_dim(target, 2, op, "target");
  const Arguments in(op, target, aux, ptr, attention, scope.stream());
  check_dtype(target, aux.scalar_type(), op, "target");
  check_size(target, 1, aux.size(1), op, "target");
  const at::Tensor from = target.contiguous(), out = at::empty({in.rows, 2 * aux.size(1)}, target.options());
  const at::Tensor weights = at::empty({aux.size(0)}, target.options());
  const auto run = [&]<typename T>(T) {
    check(target_pool_forward(in.view<T>(), from.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                              weights.mutable_data_ptr<T>(), scope.stream()));
  };
  aux.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {out, weights};
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& weights, const at::Tensor& aux,
                                            const at::Tensor& ptr, const at::Tensor& attention, bool want_aux) {
  const char* op = "target_pool_backward";
  const DeviceScope scope(aux);
  check_dim(grad, 2, op, "grad");
  const Arguments in(op, grad, aux, ptr, attention, scope.stream());
  check_dtype(grad, aux.scalar_type(), op, "grad");
  check_size(grad, 1, 2 * aux.size(1), op, "grad");
  check_dtype(weights, aux.scalar_type(), op, "weights");
  check_size(weights, 0, aux.size(0), op, "weights");
  check_device(weights, aux, op, "weights");
  const at::Tensor g = grad.contiguous(), w = weights.contiguous(), by_logit = at::empty_like(w);
  const at::Tensor sums = at::empty({(in.rows + kPoolRows - 1) / kPoolRows, aux.size(1)}, aux.options());
  const at::Tensor grad_aux = at::empty({want_aux ? aux.size(0) : 0, aux.size(1)}, aux.options());
  const at::Tensor grad_attention = at::empty(attention.sizes(), attention.options());
  const auto run = [&]<typename T>(T) {
    check(target_pool_backward(in.view<T>(), g.const_data_ptr<T>(), w.const_data_ptr<T>(),
                               by_logit.mutable_data_ptr<T>(), sums.mutable_data_ptr<T>(),
                               want_aux ? grad_aux.mutable_data_ptr<T>() : nullptr,
                               grad_attention.mutable_data_ptr<T>(), scope.stream()));
  };
  aux.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {grad_aux, grad_attention};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("target_pool", &forward);
  m.impl("target_pool_backward", &backward);
}

}  // namespace mmfast
