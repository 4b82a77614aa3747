// Softmax over the entries of every row of a graph, in H columns at once, and its gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "edges.h"
#include "exp.h"
#include "graph.h"
#include "table.h"

namespace mmfast {
namespace {

template <typename T>
struct Entries {
  const int64_t* ptr;
  int64_t heads;
  const T* in;     // [E, H]: logits, or the gradient
  const T* alpha;  // [E, H], backward
  T* out;          // [E, H]
};

// `scratch` holds one column of the longest row.
template <typename T>
MMFAST_INLINE void softmax_of(const Entries<T>& s, int64_t first, int64_t last, T* scratch) {
  for (int64_t r = first; r < last; ++r) {
    const int64_t begin = s.ptr[r], count = s.ptr[r + 1] - begin;
    for (int64_t h = 0; h < s.heads && count > 0; ++h) {
      const T* in = s.in + begin * s.heads + h;
      T* out = s.out + begin * s.heads + h;
      for (int64_t i = 0; i < count; ++i) scratch[i] = in[i * s.heads];
      const T sum = exp_row(scratch, count, max_row(scratch, count, -std::numeric_limits<T>::infinity()));
      for (int64_t i = 0; i < count; ++i) out[i * s.heads] = scratch[i] / sum;
    }
  }
}

template <typename T>
MMFAST_INLINE void backward_of(const Entries<T>& s, int64_t first, int64_t last) {
  for (int64_t r = first; r < last; ++r) {
    const int64_t begin = s.ptr[r] * s.heads, end = s.ptr[r + 1] * s.heads;
    for (int64_t h = 0; h < s.heads; ++h) {
      T mean = 0;
      for (int64_t e = begin + h; e < end; e += s.heads) mean += s.alpha[e] * s.in[e];
      for (int64_t e = begin + h; e < end; e += s.heads) s.out[e] = s.alpha[e] * (s.in[e] - mean);
    }
  }
}

MMFAST_CLONES void softmax_rows(const Entries<float>& s, int64_t first, int64_t last, float* scratch) {
  softmax_of(s, first, last, scratch);
}
MMFAST_CLONES void softmax_rows(const Entries<double>& s, int64_t first, int64_t last, double* scratch) {
  softmax_of(s, first, last, scratch);
}
MMFAST_CLONES void backward_rows(const Entries<float>& s, int64_t first, int64_t last) { backward_of(s, first, last); }
MMFAST_CLONES void backward_rows(const Entries<double>& s, int64_t first, int64_t last) { backward_of(s, first, last); }

template <typename T>
void run(const at::Tensor& ptr, const at::Tensor& in, const at::Tensor& alpha, at::Tensor& out) {
  const int64_t rows = ptr.numel() - 1;
  const Entries<T> s{ptr.const_data_ptr<int64_t>(), in.dim() == 2 ? in.size(1) : 1, in.const_data_ptr<T>(),
                     alpha.defined() ? alpha.const_data_ptr<T>() : nullptr, out.mutable_data_ptr<T>()};
  int64_t longest = 0;
  for (int64_t r = 0; r < rows; ++r) longest = std::max(longest, s.ptr[r + 1] - s.ptr[r]);
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(s.ptr, rows, threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> scratch(s.alpha ? 0 : longest);
#pragma omp for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < num_pieces; ++piece) {
      s.alpha ? backward_rows(s, bounds[piece], bounds[piece + 1])
              : softmax_rows(s, bounds[piece], bounds[piece + 1], scratch.data());
    }
  }
}

at::Tensor edge_softmax(const at::Tensor& ptr, const at::Tensor& logits) {
  const char* op = "edge_softmax";
  check_real(logits, op, "logits");
  TORCH_CHECK(logits.dim() == 1 || logits.dim() == 2, op, ": logits has ", logits.dim(), " dimensions; wanted 1 or 2");
  const at::Tensor rows = checked_ptr(ptr, logits.size(0), op, "ptr"), in = logits.contiguous();
  at::Tensor out = empty_table(logits.sizes(), logits.options());
  if (logits.scalar_type() == at::kFloat) {
    run<float>(rows, in, {}, out);
  } else {
    run<double>(rows, in, {}, out);
  }
  return out;
}

at::Tensor edge_softmax_backward(const at::Tensor& ptr, const at::Tensor& grad, const at::Tensor& alpha) {
  const char* op = "edge_softmax_backward";
  check_real(alpha, op, "alpha");
  check_dtype(grad, alpha.scalar_type(), op, "grad");
  TORCH_CHECK(grad.sizes() == alpha.sizes(), op, ": grad is ", grad.sizes(), "; wanted ", alpha.sizes());
  const at::Tensor rows = checked_ptr(ptr, alpha.size(0), op, "ptr");
  const at::Tensor in = grad.contiguous(), weights = alpha.contiguous();
  at::Tensor out = empty_table(alpha.sizes(), alpha.options());
  if (alpha.scalar_type() == at::kFloat) {
    run<float>(rows, in, weights, out);
  } else {
    run<double>(rows, in, weights, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("edge_softmax", &edge_softmax);
  m.impl("edge_softmax_backward", &edge_softmax_backward);
}

}  // namespace mmfast
