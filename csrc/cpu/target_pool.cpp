// TargetMR's pooling (Eq. 20-21): [target || softmax-weighted sum of the row's auxiliaries], and its gradient.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "../check.h"
#include "edges.h"
#include "exp.h"
#include "row_blocks.h"
#include "table.h"
#include "unit_rows.h"

namespace mmfast {
namespace {

template <typename T>
struct Ragged {
  const T* aux;
  const int64_t* ptr;
  const T* attention;  // its half for the auxiliaries; the target's adds one number to all logits of a row
  int64_t dim;
};

// Rows first .. last of out [R, 2D] and of the weights.
template <typename T>
MMFAST_CLONES void pool(const Ragged<T>& in, const T* target, int64_t first, int64_t last, T* out, T* weights) {
  const int64_t dim = in.dim;
  for (int64_t r = first; r < last; ++r) {
    T *pooled = out + (2 * r + 1) * dim, *weight = weights + in.ptr[r];
    const T* aux = in.aux + in.ptr[r] * dim;
    const int64_t count = in.ptr[r + 1] - in.ptr[r];
    std::copy_n(target + r * dim, dim, pooled - dim);
    std::fill_n(pooled, dim, T(0));
    if (count == 0) continue;
    for (int64_t k = 0; k < count; ++k) weight[k] = dot(aux + k * dim, in.attention, dim);
    const T sum = exp_row(weight, count, max_row(weight, count, -std::numeric_limits<T>::infinity()));
    for (int64_t k = 0; k < count; ++k) {
      weight[k] /= sum;
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) pooled[d] += weight[k] * aux[k * dim + d];
    }
  }
}

// Adds the rows' part of the gradient of attention to sums [D]; writes that of aux where it is wanted.
template <typename T>
MMFAST_CLONES void pool_backward(const Ragged<T>& in, const T* grad, const T* weights, int64_t first, int64_t last,
                                 T* sums, T* grad_aux, T* slope) {
  const int64_t dim = in.dim;
  for (int64_t r = first; r < last; ++r) {
    const T *g = grad + (2 * r + 1) * dim, *weight = weights + in.ptr[r], *aux = in.aux + in.ptr[r] * dim;
    const int64_t count = in.ptr[r + 1] - in.ptr[r];
    T mean = 0;
    for (int64_t k = 0; k < count; ++k) mean += weight[k] * (slope[k] = dot(aux + k * dim, g, dim));
    for (int64_t k = 0; k < count; ++k) {
      const T by_logit = weight[k] * (slope[k] - mean);
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) sums[d] += by_logit * aux[k * dim + d];
      if (!grad_aux) continue;
      T* out = grad_aux + (in.ptr[r] + k) * dim;
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) out[d] = weight[k] * g[d] + by_logit * in.attention[d];
    }
  }
}

// What both passes take, checked and contiguous.
struct Arguments {
  at::Tensor aux, ptr, attention;
  int64_t rows, longest = 0;

  Arguments(const char* op, const at::Tensor& aux_in, const at::Tensor& ptr_in, const at::Tensor& attention_in,
            int64_t rows)
      : aux(aux_in.contiguous()), attention(attention_in.contiguous()), rows(rows) {
    check_dim(aux, 2, op, "aux");
    check_real(aux, op, "aux");
    check_dim(attention, 1, op, "attention");
    check_dtype(attention, aux.scalar_type(), op, "attention");
    check_size(attention, 0, 2 * aux.size(1), op, "attention");
    ptr = checked_ptr(ptr_in, aux.size(0), op, "ptr");
    check_size(ptr, 0, rows + 1, op, "ptr");
    const int64_t* p = ptr.const_data_ptr<int64_t>();
    for (int64_t r = 0; r < rows; ++r) longest = std::max(longest, p[r + 1] - p[r]);
  }

  template <typename T>
  Ragged<T> view() const {
    const int64_t dim = aux.size(1);
    return {aux.const_data_ptr<T>(), ptr.const_data_ptr<int64_t>(), attention.const_data_ptr<T>() + dim, dim};
  }
};

std::tuple<at::Tensor, at::Tensor> target_pool(const at::Tensor& target, const at::Tensor& aux, const at::Tensor& ptr,
                                               const at::Tensor& attention) {
  const char* op = "target_pool";
  check_dim(target, 2, op, "target");
  const Arguments in(op, aux, ptr, attention, target.size(0));
  check_dtype(target, aux.scalar_type(), op, "target");
  check_size(target, 1, aux.size(1), op, "target");
  const at::Tensor from = target.contiguous();
  at::Tensor out = empty_table({in.rows, 2 * aux.size(1)}, target.options());
  at::Tensor weights = at::empty({aux.size(0)}, target.options());
  const auto run = [&]<typename T>(T) {
    const auto view = in.view<T>();
    for_row_blocks(in.rows, [&](int64_t, int64_t first, int64_t last) {
      pool(view, from.const_data_ptr<T>(), first, last, out.mutable_data_ptr<T>(), weights.mutable_data_ptr<T>());
    });
  };
  aux.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {out, weights};
}

std::tuple<at::Tensor, at::Tensor> target_pool_backward(const at::Tensor& grad, const at::Tensor& weights,
                                                        const at::Tensor& aux, const at::Tensor& ptr,
                                                        const at::Tensor& attention, bool want_aux) {
  const char* op = "target_pool_backward";
  check_dim(grad, 2, op, "grad");
  const Arguments in(op, aux, ptr, attention, grad.size(0));
  check_dtype(grad, aux.scalar_type(), op, "grad");
  check_size(grad, 1, 2 * aux.size(1), op, "grad");
  check_dtype(weights, aux.scalar_type(), op, "weights");
  check_size(weights, 0, aux.size(0), op, "weights");
  const at::Tensor g = grad.contiguous(), w = weights.contiguous();
  at::Tensor grad_aux = empty_table({want_aux ? aux.size(0) : 0, aux.size(1)}, aux.options());
  at::Tensor grad_attention = at::zeros(attention.sizes(), attention.options());
  const auto run = [&]<typename T>(T) {
    const auto view = in.view<T>();
    std::vector<T> sums(row_blocks(in.rows) * view.dim);
    for_row_blocks(in.rows, [&](int64_t block, int64_t first, int64_t last) {
      std::vector<T> slope(in.longest);
      pool_backward(view, g.const_data_ptr<T>(), w.const_data_ptr<T>(), first, last, sums.data() + block * view.dim,
                    want_aux ? grad_aux.mutable_data_ptr<T>() : nullptr, slope.data());
    });
    std::vector<double> total(view.dim);
    for (size_t i = 0; i < sums.size(); ++i) total[i % view.dim] += sums[i];
    std::copy(total.begin(), total.end(), grad_attention.mutable_data_ptr<T>() + view.dim);
  };
  aux.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {grad_aux, grad_attention};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("target_pool", &target_pool);
  m.impl("target_pool_backward", &target_pool_backward);
}

}  // namespace mmfast
