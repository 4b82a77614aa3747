// InfoNCE of anchors against all rows of a table: tiles of scores, an online log-sum-exp, never all scores at once.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "../loss_checks.h"
#include "exp.h"
#include "table.h"
#include "unit_rows.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr int64_t kAnchors = 128;     // rows of a tile of scores
constexpr int64_t kCandidates = 512;  // and its columns
constexpr double kEps = 1e-12;        // least length of a row that is normalised

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Rows out = scale * x, divided by their length first where `inverse` is there to receive 1 / length.
template <typename T>
MMFAST_CLONES void prepare(const T* x, int64_t rows, int64_t dim, T scale, T* out, T* inverse) {
  for (int64_t r = 0; r < rows; ++r, x += dim, out += dim) {
    if (inverse) inverse[r] = unit_row(x, dim, T(kEps), out);
    const T* from = inverse ? out : x;
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) out[d] = from[d] * scale;
  }
}

// What one anchor has seen so far: weights are exp(score - highest), their sum is `sum`.
template <typename T>
struct Anchor {
  T highest, positive;
  double sum;
};

// Scores [rows, count] of candidates begin .. begin + count become weights; returns in rescale what the weights of
// earlier tiles are to be multiplied with.
template <typename T>
MMFAST_CLONES void weigh(T* scores, int64_t rows, int64_t begin, int64_t count, const int64_t* index,
                         const int64_t* skip, Anchor<T>* anchors, T* rescale) {
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  for (int64_t r = 0; r < rows; ++r, scores += count) {
    Anchor<T>& anchor = anchors[r];
    if (index[r] >= begin && index[r] < begin + count) anchor.positive = scores[index[r] - begin];
    if (skip && skip[r] >= begin && skip[r] < begin + count) scores[skip[r] - begin] = kNone;
    const T highest = max_row(scores, count, anchor.highest);
    rescale[r] = anchor.highest == highest ? T(1) : std::exp(anchor.highest - highest);
    anchor.sum = anchor.sum * rescale[r] + exp_row(scores, count, highest == kNone ? T(0) : highest);
    anchor.highest = highest;
  }
}

// Scores [rows, count] become grad[r] * (softmax - [c is the positive]).
template <typename T>
MMFAST_CLONES void slopes(T* scores, int64_t rows, int64_t begin, int64_t count, const int64_t* index,
                          const int64_t* skip, const T* highest, const T* sum, const T* grad) {
  for (int64_t r = 0; r < rows; ++r, scores += count) {
    if (skip && skip[r] >= begin && skip[r] < begin + count) {
      scores[skip[r] - begin] = -std::numeric_limits<T>::infinity();
    }
    exp_row(scores, count, highest[r]);
    const T factor = grad[r] / sum[r];
#pragma GCC ivdep
    for (int64_t c = 0; c < count; ++c) scores[c] *= factor;
    if (index[r] >= begin && index[r] < begin + count) scores[index[r] - begin] -= grad[r];
  }
}

// Row r of the sums times factor[r].
template <typename T>
MMFAST_CLONES void scale_rows(T* sums, int64_t rows, int64_t dim, const T* factor) {
  for (int64_t r = 0; r < rows; ++r, sums += dim) {
    if (factor[r] == 1) continue;
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) sums[d] *= factor[r];
  }
}

// Sums of weighted candidates become the derivatives of the losses by the anchors.
template <typename T>
MMFAST_CLONES void finish(T* sums, int64_t rows, int64_t dim, const Anchor<T>* anchors, const T* candidates,
                          const int64_t* index, T temperature) {
  for (int64_t r = 0; r < rows; ++r, sums += dim) {
    const T share = static_cast<T>(1 / anchors[r].sum), *positive = candidates + index[r] * dim;
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) sums[d] = (sums[d] * share - positive[d]) / temperature;
  }
}

// Derivatives by rows out = scale * x / length become those by x.
template <typename T>
MMFAST_CLONES void undo_length(const T* out, const T* inverse, int64_t rows, int64_t dim, T scale, T* grad) {
  for (int64_t r = 0; r < rows; ++r, out += dim, grad += dim) {
    unit_row_backward(out, scale, inverse[r], dim, T(kEps), grad);
  }
}

// A table ready for products: scaled, and of rows of length one where wanted.
template <typename T>
struct Rows {
  at::Tensor table, inverse;  // inverse is undefined where rows keep their length

  Rows(const at::Tensor& x, bool normalize, T scale) : table(x) {
    if (!normalize && scale == 1) return;
    const int64_t rows = x.size(0), dim = x.size(1);
    table = empty_table(x.sizes(), x.options());
    if (normalize) inverse = at::empty({rows}, x.options());
    at::parallel_for(0, rows, kCandidates, [&](int64_t begin, int64_t end) {
      prepare(x.const_data_ptr<T>() + begin * dim, end - begin, dim, scale, data() + begin * dim,
              lengths() ? lengths() + begin : nullptr);
    });
  }

  T* data() const { return static_cast<T*>(table.data_ptr()); }
  T* lengths() const { return inverse.defined() ? inverse.mutable_data_ptr<T>() : nullptr; }
  int64_t size() const { return table.size(0); }
  at::Tensor tile(int64_t begin, int64_t count) const { return table.narrow(0, begin, count); }
};

template <typename T>
class InfoNce {
 public:
  InfoNce(const at::Tensor& x, const at::Tensor& y, const at::Tensor& index, const std::optional<at::Tensor>& skip,
          double temperature, bool normalize)
      : temperature_(static_cast<T>(temperature)),
        anchors_(x, normalize, 1 / temperature_),
        candidates_(y, normalize, T(1)),
        index_(index.const_data_ptr<int64_t>()),
        skip_(skip ? skip->const_data_ptr<int64_t>() : nullptr),
        dim_(x.size(1)) {}

  // A worker owns a tile of anchors and walks over all candidates.
  void forward(T* loss, T* highest, T* sum, const at::Tensor& slope) const {
    Pieces pieces(tiles(anchors_.size(), kAnchors));
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const at::Tensor scores = at::empty({kAnchors * kCandidates}, anchors_.table.options());
      for (int64_t piece; pieces.take(piece);) {
        const int64_t first = piece * kAnchors, rows = std::min(kAnchors, anchors_.size() - first);
        Anchor<T> seen[kAnchors];
        std::fill_n(seen, rows, Anchor<T>{-std::numeric_limits<T>::infinity(), 0, 0});
        at::Tensor sums = slope.defined() ? slope.narrow(0, first, rows) : slope;
        walk(first, rows, scores, seen, sums);
        for (int64_t r = 0; r < rows; ++r) {
          loss[first + r] = (seen[r].highest - seen[r].positive) + static_cast<T>(std::log(seen[r].sum));
          highest[first + r] = seen[r].highest;
          sum[first + r] = static_cast<T>(seen[r].sum);
        }
        if (sums.defined()) finish_slope(first, rows, seen, sums.mutable_data_ptr<T>());
      }
    });
  }

  // A worker owns a tile of candidates and walks over all anchors, in their order.
  void backward(const T* grad, const T* highest, const T* sum, const at::Tensor& out) const {
    Pieces pieces(tiles(candidates_.size(), kCandidates));
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const at::Tensor scores = at::empty({kAnchors * kCandidates}, anchors_.table.options());
      for (int64_t piece; pieces.take(piece);) {
        const int64_t begin = piece * kCandidates, count = std::min(kCandidates, candidates_.size() - begin);
        const at::Tensor tile = candidates_.tile(begin, count);
        at::Tensor sums = out.narrow(0, begin, count);
        for (int64_t first = 0; first < anchors_.size(); first += kAnchors) {
          const at::Tensor anchors = anchors_.tile(first, std::min(kAnchors, anchors_.size() - first));
          at::Tensor block = product(anchors, tile, scores);
          slopes(block.mutable_data_ptr<T>(), anchors.size(0), begin, count, index_ + first, skipped(first),
                 highest + first, sum + first, grad + first);
          at::addmm_out(sums, sums, block.t(), anchors, first > 0 ? 1 : 0);
        }
        if (!candidates_.lengths()) continue;
        undo_length(candidates_.data() + begin * dim_, candidates_.lengths() + begin, count, dim_, T(1),
                    sums.mutable_data_ptr<T>());
      }
    });
  }

 private:
  const int64_t* skipped(int64_t first) const { return skip_ ? skip_ + first : nullptr; }

  static at::Tensor product(const at::Tensor& left, const at::Tensor& right, const at::Tensor& store) {
    const int64_t rows = left.size(0), count = right.size(0);
    at::Tensor block = store.narrow(0, 0, rows * count).view({rows, count});
    at::mm_out(block, left, right.t());
    return block;
  }

  void walk(int64_t first, int64_t rows, const at::Tensor& scores, Anchor<T>* seen, at::Tensor& sums) const {
    const at::Tensor anchors = anchors_.tile(first, rows);
    T rescale[kAnchors];
    for (int64_t begin = 0; begin < candidates_.size(); begin += kCandidates) {
      const at::Tensor tile = candidates_.tile(begin, std::min(kCandidates, candidates_.size() - begin));
      at::Tensor block = product(anchors, tile, scores);
      weigh(block.mutable_data_ptr<T>(), rows, begin, tile.size(0), index_ + first, skipped(first), seen, rescale);
      if (!sums.defined()) continue;
      if (begin > 0) scale_rows(sums.mutable_data_ptr<T>(), rows, dim_, rescale);
      at::addmm_out(sums, sums, block, tile, begin > 0 ? 1 : 0);
    }
  }

  void finish_slope(int64_t first, int64_t rows, const Anchor<T>* seen, T* sums) const {
    finish(sums, rows, dim_, seen, candidates_.data(), index_ + first, temperature_);
    if (!anchors_.lengths()) return;
    undo_length(anchors_.data() + first * dim_, anchors_.lengths() + first, rows, dim_, 1 / temperature_, sums);
  }

  const T temperature_;
  const Rows<T> anchors_, candidates_;  // the anchors divided by the temperature
  const int64_t* index_;
  const int64_t* skip_;
  const int64_t dim_;
};

// Checks what both passes take; returns it contiguous.
struct Arguments {
  at::Tensor x, y, index;
  std::optional<at::Tensor> skip;

  Arguments(const char* op, const at::Tensor& x_in, const at::Tensor& y_in, const at::Tensor& index_in,
            const std::optional<at::Tensor>& skip_in, double temperature)
      : x(x_in.contiguous()), y(y_in.contiguous()), index(index_in.contiguous()) {
    check_info_nce(x, y, temperature, op);
    check_column(index, op, "index");
    if (!skip_in) return;
    skip = skip_in->contiguous();
    check_column(*skip, op, "skip");
  }

 private:
  void check_column(const at::Tensor& ids, const char* op, const char* name) const {
    check_dim(ids, 1, op, name);
    check_dtype(ids, at::kLong, op, name);
    check_size(ids, 0, x.size(0), op, name);
    check_ids(ids, y.size(0), op, name);
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce(const at::Tensor& x, const at::Tensor& y,
                                                        const at::Tensor& index, const std::optional<at::Tensor>& skip,
                                                        double temperature, bool normalize, bool want_slope) {
  const Arguments in("info_nce", x, y, index, skip, temperature);
  at::Tensor loss = at::empty({x.size(0)}, x.options()), softmax = at::empty({2, x.size(0)}, x.options());
  at::Tensor slope = at::empty({want_slope ? x.size(0) : 0, x.size(1)}, x.options());
  const auto run = [&]<typename T>(T) {
    T* highest = softmax.mutable_data_ptr<T>();
    InfoNce<T>(in.x, in.y, in.index, in.skip, temperature, normalize)
        .forward(loss.mutable_data_ptr<T>(), highest, highest + x.size(0), want_slope ? slope : at::Tensor());
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, softmax, slope};
}

at::Tensor info_nce_backward(const at::Tensor& grad, const at::Tensor& softmax, const at::Tensor& x,
                             const at::Tensor& y, const at::Tensor& index, const std::optional<at::Tensor>& skip,
                             double temperature, bool normalize) {
  const char* op = "info_nce_backward";
  const Arguments in(op, x, y, index, skip, temperature);
  check_softmax(grad, softmax, x, 2, op);
  const at::Tensor slope = grad.contiguous(), total = softmax.contiguous();
  at::Tensor out = empty_table(y.sizes(), y.options());
  const auto run = [&]<typename T>(T) {
    const T* highest = total.const_data_ptr<T>();
    InfoNce<T>(in.x, in.y, in.index, in.skip, temperature, normalize)
        .backward(slope.const_data_ptr<T>(), highest, highest + x.size(0), out);
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("info_nce", &info_nce);
  m.impl("info_nce_backward", &info_nce_backward);
}

}  // namespace mmfast
