// Attention over the entries of every row of a graph: softmax of scale <q_row, k_col>, the weighted sum of v_col, and
// their gradient. Numbers per entry are kept, vectors per entry never.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "../attention_checks.h"
#include "edges.h"
#include "exp.h"
#include "graph.h"
#include "table.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

// The entries of a row from e on, at most kChunk of them.
template <typename T>
MMFAST_INLINE void load_row(const Attention<T>& a, int64_t e, int64_t end, Chunk<T>& chunk) {
  chunk.count = std::min(kChunk, end - e);
  chunk.stop = std::min(chunk.count + kAhead, a.num_entries - e);
  for (int64_t i = 0; i < chunk.stop; ++i) {
    chunk.row[i] = a.cols[e + i] + (a.choice && a.choice[e + i] ? a.num_cols : 0);
  }
  for (int64_t i = 0; i < chunk.count; ++i) chunk.entry[i] = e + i;
}

// The entries of a column from t on that chose this half; t moves past them.
template <typename T>
MMFAST_INLINE void load_column(const Attention<T>& a, int64_t& t, int64_t end, bool half, Chunk<T>& chunk) {
  chunk.count = chunk.stop = 0;
  for (const int64_t stop = std::min(end, t + kChunk); t < stop; ++t) {
    chunk.entry[chunk.count] = a.edges_t[t];
    chunk.row[chunk.count] = a.rows_t[t];
    chunk.count += !a.choice || a.choice[a.edges_t[t]] == half;
  }
  chunk.stop = chunk.count;
  if (a.choice) return;
  for (int64_t i = t; i < std::min(t + kAhead, a.num_entries); ++i) chunk.row[chunk.stop++] = a.rows_t[i];
}

template <typename T>
MMFAST_INLINE void attend_of(const Attention<T>& a, int64_t first, int64_t last) {
  Chunk<T> chunk;
  for (int64_t r = first; r < last; ++r) {
    const int64_t begin = a.ptr[r], end = a.ptr[r + 1];
    T* out = a.out + r * a.dim_v;
    std::fill_n(out, a.dim_v, T(0));
    if (begin == end) continue;
    for (int64_t e = begin; e < end; e += chunk.count) {
      load_row(a, e, end, chunk);
      dot_rows(chunk, a.k, a.dim, a.q + r * a.dim);
      for (int64_t i = 0; i < chunk.count; ++i) a.alpha[e + i] = a.scale * chunk.weight[i];
    }
    const T highest = max_row(a.alpha + begin, end - begin, -std::numeric_limits<T>::infinity());
    const T sum = exp_row(a.alpha + begin, end - begin, highest);
    for (int64_t e = begin; e < end; ++e) a.alpha[e] /= sum;
    for (int64_t e = begin; e < end; e += chunk.count) {
      if (end - begin > kChunk) load_row(a, e, end, chunk);
      weigh(chunk, a.alpha);
      add_rows(chunk, a.v, a.dim_v, out, a.v != a.k);
    }
  }
}

// slope_e = scale alpha_e (d_e - sum_row alpha d), d_e = <grad_out_row, v_e> + grad_alpha_e; grad_q of the rows.
template <typename T>
MMFAST_INLINE void rows_backward_of(const Attention<T>& a, int64_t first, int64_t last) {
  Chunk<T> chunk;
  for (int64_t r = first; r < last; ++r) {
    const int64_t begin = a.ptr[r], end = a.ptr[r + 1];
    T mean = 0;
    for (int64_t e = begin; e < end; e += chunk.count) {
      load_row(a, e, end, chunk);
      std::fill_n(chunk.weight, chunk.count, T(0));
      if (a.grad_out) dot_rows(chunk, a.v, a.dim_v, a.grad_out + r * a.dim_v);
      for (int64_t i = 0; i < chunk.count; ++i) {
        a.slope[e + i] = chunk.weight[i] + (a.grad_alpha ? a.grad_alpha[e + i] : T(0));
        mean += a.weights[e + i] * a.slope[e + i];
      }
    }
    T* grad_q = a.grad_q + r * a.dim;
    std::fill_n(grad_q, a.dim, T(0));
    for (int64_t e = begin; e < end; e += chunk.count) {
      if (end - begin > kChunk) load_row(a, e, end, chunk);
      for (int64_t i = 0; i < chunk.count; ++i) {
        chunk.weight[i] = a.slope[e + i] = a.scale * a.weights[e + i] * (a.slope[e + i] - mean);
      }
      add_rows(chunk, a.k, a.dim, grad_q, a.v != a.k);
    }
  }
}

// grad_k and grad_v of the columns, summed in the order of their entries.
template <typename T>
MMFAST_INLINE void columns_backward_of(const Attention<T>& a, int64_t first, int64_t last) {
  Chunk<T> chunk;
  for (const bool half : {false, true}) {
    for (int64_t c = first; c < last && (a.choice || !half); ++c) {
      const int64_t row = c + (half ? a.num_cols : 0);
      std::fill_n(a.grad_k + row * a.dim, a.dim, T(0));
      std::fill_n(a.grad_v + row * a.dim_v, a.dim_v, T(0));
      for (int64_t t = a.ptr_t[c]; t < a.ptr_t[c + 1];) {
        load_column(a, t, a.ptr_t[c + 1], half, chunk);
        weigh(chunk, a.slope);
        add_rows(chunk, a.q, a.dim, a.grad_k + row * a.dim, true);
        if (!a.grad_out) continue;
        weigh(chunk, a.weights);
        add_rows(chunk, a.grad_out, a.dim_v, a.grad_v + row * a.dim_v, true);
      }
    }
  }
}

MMFAST_CLONES void attend(const Attention<float>& a, int64_t first, int64_t last) { attend_of(a, first, last); }
MMFAST_CLONES void attend(const Attention<double>& a, int64_t first, int64_t last) { attend_of(a, first, last); }
MMFAST_CLONES void rows_backward(const Attention<float>& a, int64_t first, int64_t last) {
  rows_backward_of(a, first, last);
}
MMFAST_CLONES void rows_backward(const Attention<double>& a, int64_t first, int64_t last) {
  rows_backward_of(a, first, last);
}
MMFAST_CLONES void columns_backward(const Attention<float>& a, int64_t first, int64_t last) {
  columns_backward_of(a, first, last);
}
MMFAST_CLONES void columns_backward(const Attention<double>& a, int64_t first, int64_t last) {
  columns_backward_of(a, first, last);
}

// Runs body(first, last) over pieces of rows of about equal work.
template <typename Body>
void for_rows(const int64_t* ptr, int64_t rows, const Body& body) {
  const int threads = at::get_num_threads();
  const std::vector<int64_t> bounds = pieces(ptr, rows, threads);
  const int64_t num_pieces = static_cast<int64_t>(bounds.size()) - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t piece = 0; piece < num_pieces; ++piece) body(bounds[piece], bounds[piece + 1]);
}

AttentionArguments checked(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t,
                           const at::Tensor& rows_t, const at::Tensor& edges_t, const Optional& choice,
                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_num_entries(cols, op);
  const int64_t entries = cols.numel();
  AttentionEntries e;
  e.ptr = checked_ptr(ptr, entries, op, "ptr");
  e.ptr_t = checked_ptr(ptr_t, entries, op, "ptr_t");
  e.cols = checked_ids(cols, entries, ptr_t.numel() - 1, op, "cols");
  e.rows_t = checked_ids(rows_t, entries, ptr.numel() - 1, op, "rows_t");
  e.edges_t = checked_ids(edges_t, entries, entries, op, "edges_t");
  return {op, e, choice, q, k, v};
}

template <typename T>
void forward(Attention<T> a, at::Tensor& out, at::Tensor& alpha) {
  a.out = out.mutable_data_ptr<T>(), a.alpha = alpha.mutable_data_ptr<T>();
  for_rows(a.ptr, a.num_rows, [&](int64_t first, int64_t last) { attend(a, first, last); });
}

template <typename T>
void backward(Attention<T> a, const at::Tensor& alpha, const at::Tensor& grad_out, const at::Tensor& grad_alpha,
              at::Tensor& grad_q, at::Tensor& grad_k, at::Tensor& grad_v) {
  at::Tensor slope = at::empty(alpha.sizes(), alpha.options());
  a.weights = alpha.const_data_ptr<T>(), a.slope = slope.mutable_data_ptr<T>();
  a.grad_out = grad_out.defined() ? grad_out.const_data_ptr<T>() : nullptr;
  a.grad_alpha = grad_alpha.defined() ? grad_alpha.const_data_ptr<T>() : nullptr;
  a.grad_q = grad_q.mutable_data_ptr<T>(), a.grad_k = grad_k.mutable_data_ptr<T>();
  a.grad_v = grad_v.mutable_data_ptr<T>();
  for_rows(a.ptr, a.num_rows, [&](int64_t first, int64_t last) { rows_backward(a, first, last); });
  for_rows(a.ptr_t, a.num_cols, [&](int64_t first, int64_t last) { columns_backward(a, first, last); });
}

std::tuple<at::Tensor, at::Tensor> edge_attention(const at::Tensor& ptr, const at::Tensor& cols,
                                                  const at::Tensor& ptr_t, const at::Tensor& rows_t,
                                                  const at::Tensor& edges_t, const Optional& choice,
                                                  const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                  double scale) {
  const AttentionArguments arguments = checked("edge_attention", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v);
  at::Tensor out = empty_table({q.size(0), v.size(1)}, q.options());
  at::Tensor alpha = empty_table({cols.numel()}, q.options());
  if (q.scalar_type() == at::kFloat) {
    forward(arguments.view<float>(scale), out, alpha);
  } else {
    forward(arguments.view<double>(scale), out, alpha);
  }
  return {out, alpha};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> edge_attention_backward(
    const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& rows_t,
    const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    double scale, const at::Tensor& alpha, const Optional& grad_out, const Optional& grad_alpha) {
  const char* op = "edge_attention_backward";
  const AttentionArguments arguments = checked(op, ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v);
  const at::Tensor weights = checked_like(alpha, {cols.numel()}, q, op, "alpha");
  const at::Tensor by_out = checked_like(grad_out, {q.size(0), v.size(1)}, q, op, "grad_out");
  const at::Tensor by_alpha = checked_like(grad_alpha, {cols.numel()}, q, op, "grad_alpha");
  at::Tensor grad_q = empty_table(q.sizes(), q.options()), grad_k = empty_table(k.sizes(), q.options());
  at::Tensor grad_v = empty_table(v.sizes(), q.options());
  if (q.scalar_type() == at::kFloat) {
    backward(arguments.view<float>(scale), weights, by_out, by_alpha, grad_q, grad_k, grad_v);
  } else {
    backward(arguments.view<double>(scale), weights, by_out, by_alpha, grad_q, grad_k, grad_v);
  }
  return {grad_q, grad_k, grad_v};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("edge_attention", &edge_attention);
  m.impl("edge_attention_backward", &edge_attention_backward);
}

}  // namespace mmfast
