// The BPR loss of a batch of (user, positive item, negative item) rows of two tables, and its gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "../loss_checks.h"
#include "simd.h"
#include "table.h"

namespace mmfast {
namespace {

constexpr int64_t kBlock = 256;  // losses are summed in blocks of this size, then the blocks in order
constexpr int64_t kSlice = 64;   // least bytes of a row that a thread owns in the backward pass: one cache line

enum class Kind { kLogSigmoid, kEps, kRaw, kLog2 };

Kind parse_kind(std::string_view name) {
  if (name == "logsigmoid") return Kind::kLogSigmoid;
  if (name == "eps") return Kind::kEps;
  if (name == "raw") return Kind::kRaw;
  TORCH_CHECK(name == "log2", "bpr_loss: kind is '", name, "'; wanted logsigmoid, eps, raw or log2");
  return Kind::kLog2;
}

// Loss of one margin and its derivative by the margin.
template <typename T>
std::pair<T, T> loss_of(T margin, Kind kind) {
  if (kind == Kind::kLogSigmoid) {
    const T small = std::exp(-std::abs(margin));
    return {std::max(-margin, T(0)) + std::log1p(small), -(margin > 0 ? small : T(1)) / (1 + small)};
  }
  const T s = 1 / (1 + std::exp(-margin));
  const T rest = 1 / (1 + std::exp(margin));  // 1 - s without its cancellation
  if (kind == Kind::kEps) return {-std::log(T(1e-10) + s), -s * rest / (T(1e-10) + s)};
  if (kind == Kind::kRaw) return {-std::log(s), -rest};
  return {-std::log2(s), -rest * T(1.442695040888963407360)};
}

// margins[b] = u . (p - n) for b in [first, last).
template <typename T>
MMFAST_INLINE void margins_of(const Triples<T>& t, int64_t first, int64_t last, T* margins) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t b = first; b < last; ++b) {
    const T *u = t.users + t.user[b] * t.dim, *p = t.items + t.pos[b] * t.dim, *n = t.items + t.neg[b] * t.dim;
    typename Simd<T>::Vector sum = {};
    int64_t d = 0;
    for (; d + kLanes <= t.dim; d += kLanes) sum += Simd<T>::at(u + d) * (Simd<T>::at(p + d) - Simd<T>::at(n + d));
    T margin = 0;
    for (int lane = 0; lane < kLanes; ++lane) margin += sum[lane];
    for (; d < t.dim; ++d) margin += u[d] * (p[d] - n[d]);
    margins[b - first] = margin;
  }
}

MMFAST_CLONES void margins_range(const Triples<float>& t, int64_t first, int64_t last, float* margins) {
  margins_of(t, first, last, margins);
}
MMFAST_CLONES void margins_range(const Triples<double>& t, int64_t first, int64_t last, double* margins) {
  margins_of(t, first, last, margins);
}

// Adds to columns [begin, end) of both gradients, rows in the order of the batch.
template <typename T>
MMFAST_INLINE void scatter_of(const Triples<T>& t, const T* slope, T grad, int64_t begin, int64_t end, T* grad_users,
                              T* grad_items) {
  for (int64_t b = 0; b < t.count; ++b) {
    const T c = grad * slope[b];
    const int64_t user = t.user[b] * t.dim, pos = t.pos[b] * t.dim, neg = t.neg[b] * t.dim;
#pragma GCC ivdep
    for (int64_t d = begin; d < end; ++d) grad_users[user + d] += c * (t.items[pos + d] - t.items[neg + d]);
#pragma GCC ivdep
    for (int64_t d = begin; d < end; ++d) grad_items[pos + d] += c * t.users[user + d];
#pragma GCC ivdep
    for (int64_t d = begin; d < end; ++d) grad_items[neg + d] -= c * t.users[user + d];
  }
}

MMFAST_CLONES void scatter_range(const Triples<float>& t, const float* slope, float grad, int64_t begin, int64_t end,
                                 float* grad_users, float* grad_items) {
  scatter_of(t, slope, grad, begin, end, grad_users, grad_items);
}
MMFAST_CLONES void scatter_range(const Triples<double>& t, const double* slope, double grad, int64_t begin, int64_t end,
                                 double* grad_users, double* grad_items) {
  scatter_of(t, slope, grad, begin, end, grad_users, grad_items);
}

template <typename T>
T forward(const Triples<T>& t, Kind kind, T* slope) {
  const int64_t blocks = (t.count + kBlock - 1) / kBlock;
  std::vector<double> sums(blocks);
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kBlock, last = std::min(t.count, first + kBlock);
    margins_range(t, first, last, slope + first);
    double sum = 0;
    for (int64_t b = first; b < last; ++b) {
      const auto [loss, derivative] = loss_of(slope[b], kind);
      sum += loss;
      slope[b] = derivative / static_cast<T>(t.count);
    }
    sums[block] = sum;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return static_cast<T>(total / static_cast<double>(t.count));
}

// Every thread owns a slice of the columns, so no two write one number and the order of additions is the batch's.
template <typename T>
void backward(const Triples<T>& t, const T* slope, T grad, T* grad_users, T* grad_items) {
  const int64_t slices = std::max<int64_t>(1, t.dim * sizeof(T) / kSlice);
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), slices);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t thread = 0; thread < threads; ++thread) {
    const int64_t width = kSlice / sizeof(T);
    const int64_t begin = slices * thread / threads * width;
    const int64_t end = thread + 1 == threads ? t.dim : slices * (thread + 1) / threads * width;
    scatter_range(t, slope, grad, begin, end, grad_users, grad_items);
  }
}

// The arguments of both passes, checked, contiguous, ids as int64.
class Checked {
 public:
  Checked(const char* op, const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
          const at::Tensor& pos, const at::Tensor& neg)
      : users_(users.contiguous()), items_(items.contiguous()) {
    check_triples(users, items, user, op);
    user_ = ids(user, user.size(0), users.size(0), op, "user_index");
    pos_ = ids(pos, user.size(0), items.size(0), op, "pos_index");
    neg_ = ids(neg, user.size(0), items.size(0), op, "neg_index");
  }

  template <typename T>
  Triples<T> view() const {
    return {users_.const_data_ptr<T>(),
            items_.const_data_ptr<T>(),
            user_.const_data_ptr<int64_t>(),
            pos_.const_data_ptr<int64_t>(),
            neg_.const_data_ptr<int64_t>(),
            user_.numel(),
            users_.size(1)};
  }

 private:
  static at::Tensor ids(const at::Tensor& index, int64_t count, int64_t rows, const char* op, const char* name) {
    check_dim(index, 1, op, name);
    check_size(index, 0, count, op, name);
    at::Tensor dense = index.contiguous();
    check_ids(dense, rows, op, name);
    return dense.to(at::kLong);
  }

  at::Tensor users_, items_, user_, pos_, neg_;
};

std::tuple<at::Tensor, at::Tensor> bpr_loss(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
                                            const at::Tensor& pos, const at::Tensor& neg, std::string_view kind) {
  const Checked batch("bpr_loss", users, items, user, pos, neg);
  const Kind formula = parse_kind(kind);
  at::Tensor slope = at::empty({user.size(0)}, users.options());
  at::Tensor loss = at::empty({}, users.options());
  if (users.scalar_type() == at::kFloat) {
    *loss.mutable_data_ptr<float>() = forward(batch.view<float>(), formula, slope.mutable_data_ptr<float>());
  } else {
    *loss.mutable_data_ptr<double>() = forward(batch.view<double>(), formula, slope.mutable_data_ptr<double>());
  }
  return {loss, slope};
}

at::Tensor triple_margins(const at::Tensor& users, const at::Tensor& items, const at::Tensor& user,
                          const at::Tensor& pos, const at::Tensor& neg) {
  const Checked batch("triple_margins", users, items, user, pos, neg);
  at::Tensor margins = at::empty({user.size(0)}, users.options());
  const auto run = [&]<typename T>(T) {
    const Triples<T> triples = batch.view<T>();
    T* out = margins.mutable_data_ptr<T>();
    at::parallel_for(0, triples.count, kBlock,
                     [&](int64_t first, int64_t last) { margins_range(triples, first, last, out + first); });
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return margins;
}

std::tuple<at::Tensor, at::Tensor> bpr_loss_backward(const at::Tensor& grad, const at::Tensor& slope,
                                                     const at::Tensor& users, const at::Tensor& items,
                                                     const at::Tensor& user, const at::Tensor& pos,
                                                     const at::Tensor& neg) {
  const Checked batch("bpr_loss_backward", users, items, user, pos, neg);
  check_dtype(slope, users.scalar_type(), "bpr_loss_backward", "slope");
  check_dim(slope, 1, "bpr_loss_backward", "slope");
  check_size(slope, 0, user.size(0), "bpr_loss_backward", "slope");
  at::Tensor grad_users = empty_table(users.sizes(), users.options()).zero_();
  at::Tensor grad_items = empty_table(items.sizes(), items.options()).zero_();
  const at::Tensor dense = slope.contiguous();
  if (users.scalar_type() == at::kFloat) {
    backward(batch.view<float>(), dense.const_data_ptr<float>(), grad.item<float>(),
             grad_users.mutable_data_ptr<float>(), grad_items.mutable_data_ptr<float>());
  } else {
    backward(batch.view<double>(), dense.const_data_ptr<double>(), grad.item<double>(),
             grad_users.mutable_data_ptr<double>(), grad_items.mutable_data_ptr<double>());
  }
  return {grad_users, grad_items};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("bpr_loss", &bpr_loss);
  m.impl("bpr_loss_backward", &bpr_loss_backward);
  m.impl("triple_margins", &triple_margins);
}

}  // namespace mmfast
