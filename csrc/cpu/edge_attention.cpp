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

#include "edges.h"
#include "exp.h"
#include "graph.h"
#include "table.h"

namespace mmfast {
namespace {

using Optional = std::optional<at::Tensor>;

template <typename T>
struct Attention {
  const int64_t* ptr;
  const int32_t* cols;
  const int64_t* ptr_t;
  const int32_t* rows_t;
  const int32_t* edges_t;
  const bool* choice;  // null: no entry chooses the second half of k and v
  int64_t num_rows, num_cols, num_entries;
  const T *q, *k, *v;
  int64_t dim, dim_v;
  T scale;
  T *out, *alpha;                            // forward
  const T *weights, *grad_out, *grad_alpha;  // backward: alpha; null: no gradient
  T *slope, *grad_q, *grad_k, *grad_v;       // slope [E]: the gradient of the dot products
};

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

// The arguments of both passes, checked and contiguous.
class Arguments {
 public:
  Arguments(const char* op, const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t,
            const at::Tensor& rows_t, const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q,
            const at::Tensor& k, const at::Tensor& v) {
    const int64_t entries = cols.numel();
    TORCH_CHECK(entries < (int64_t(1) << 31), op, ": there are ", entries, " entries; wanted less than 2^31");
    ptr_ = checked_ptr(ptr, entries, op, "ptr"), ptr_t_ = checked_ptr(ptr_t, entries, op, "ptr_t");
    num_rows_ = ptr.numel() - 1, num_cols_ = ptr_t.numel() - 1;
    cols_ = checked_ids(cols, entries, num_cols_, op, "cols");
    rows_t_ = checked_ids(rows_t, entries, num_rows_, op, "rows_t");
    edges_t_ = checked_ids(edges_t, entries, entries, op, "edges_t");
    if (choice) {
      check_dim(*choice, 1, op, "choice");
      check_size(*choice, 0, entries, op, "choice");
      check_dtype(*choice, at::kBool, op, "choice");
      choice_ = choice->contiguous();
    }
    check_real(q, op, "q");
    q_ = table(q, num_rows_, q.scalar_type(), op, "q");
    k_ = table(k, num_cols_ * (choice ? 2 : 1), q.scalar_type(), op, "k");
    v_ = table(v, num_cols_ * (choice ? 2 : 1), q.scalar_type(), op, "v");
    check_size(k, 1, q.size(1), op, "k");
  }

  template <typename T>
  Attention<T> view(double scale) const {
    Attention<T> a{};
    a.ptr = ptr_.const_data_ptr<int64_t>(), a.ptr_t = ptr_t_.const_data_ptr<int64_t>();
    a.cols = cols_.const_data_ptr<int32_t>(), a.rows_t = rows_t_.const_data_ptr<int32_t>();
    a.edges_t = edges_t_.const_data_ptr<int32_t>();
    a.choice = choice_.defined() ? choice_.const_data_ptr<bool>() : nullptr;
    a.num_rows = num_rows_, a.num_cols = num_cols_, a.num_entries = cols_.numel();
    a.q = q_.const_data_ptr<T>(), a.k = k_.const_data_ptr<T>(), a.v = v_.const_data_ptr<T>();
    a.dim = q_.size(1), a.dim_v = v_.size(1);
    a.scale = static_cast<T>(scale);
    return a;
  }

 private:
  static at::Tensor table(const at::Tensor& t, int64_t rows, at::ScalarType type, const char* op, const char* name) {
    check_dim(t, 2, op, name);
    check_size(t, 0, rows, op, name);
    check_dtype(t, type, op, name);
    return t.contiguous();
  }

  at::Tensor ptr_, cols_, ptr_t_, rows_t_, edges_t_, choice_, q_, k_, v_;
  int64_t num_rows_ = 0, num_cols_ = 0;
};

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
  const Arguments arguments("edge_attention", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v);
  at::Tensor out = empty_table({q.size(0), v.size(1)}, q.options());
  at::Tensor alpha = empty_table({cols.numel()}, q.options());
  if (q.scalar_type() == at::kFloat) {
    forward(arguments.view<float>(scale), out, alpha);
  } else {
    forward(arguments.view<double>(scale), out, alpha);
  }
  return {out, alpha};
}

at::Tensor checked_grad(const Optional& grad, at::IntArrayRef sizes, const at::Tensor& q, const char* name) {
  if (!grad) return {};
  check_dtype(*grad, q.scalar_type(), "edge_attention_backward", name);
  TORCH_CHECK(grad->sizes() == sizes, "edge_attention_backward: ", name, " is ", grad->sizes(), "; wanted ", sizes);
  return grad->contiguous();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> edge_attention_backward(
    const at::Tensor& ptr, const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& rows_t,
    const at::Tensor& edges_t, const Optional& choice, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    double scale, const at::Tensor& alpha, const Optional& grad_out, const Optional& grad_alpha) {
  const Arguments arguments("edge_attention_backward", ptr, cols, ptr_t, rows_t, edges_t, choice, q, k, v);
  const at::Tensor weights = checked_grad(alpha, {cols.numel()}, q, "alpha");
  const at::Tensor by_out = checked_grad(grad_out, {q.size(0), v.size(1)}, q, "grad_out");
  const at::Tensor by_alpha = checked_grad(grad_alpha, {cols.numel()}, q, "grad_alpha");
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
