// info_nce on CUDA: tiles of scores by at::mm, our passes between them, one tile of each in memory.
#include "info_nce.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "../loss_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

#ifdef MMFAST_EMULATED
constexpr int64_t kAnchors = 48, kCandidates = 80;  // small, so that tests meet many tiles
#else
constexpr int64_t kAnchors = 4096, kCandidates = 8192;  // 128 MiB of float32 scores
#endif

// A table ready for products: scaled, and of rows of length one where wanted.
template <typename T>
struct Rows {
  at::Tensor table, inverse;  // inverse is undefined where rows keep their length
  T scale;

  Rows(const at::Tensor& x, bool normalize, T scale, cudaStream_t stream) : table(x), scale(scale) {
    if (!normalize && scale == 1) return;
    table = at::empty(x.sizes(), x.options());
    if (normalize) inverse = at::empty({x.size(0)}, x.options());
    check(nce_prepare(x.const_data_ptr<T>(), x.size(0), x.size(1), scale, table.mutable_data_ptr<T>(), lengths(),
                      stream));
  }

  T* lengths() const { return inverse.defined() ? inverse.mutable_data_ptr<T>() : nullptr; }
  int64_t size() const { return table.size(0); }
  at::Tensor tile(int64_t begin, int64_t most) const { return table.narrow(0, begin, std::min(most, size() - begin)); }

  // grad, by x / length, becomes factor times that by x.
  void undo_length(int64_t begin, T factor, const at::Tensor& grad, cudaStream_t stream) const {
    const int64_t dim = table.size(1);
    check(nce_undo_length(table.const_data_ptr<T>() + begin * dim, lengths() ? lengths() + begin : nullptr,
                          grad.size(0), dim, scale, factor, grad.mutable_data_ptr<T>(), stream));
  }
};

template <typename T>
class InfoNce {
 public:
  InfoNce(const at::Tensor& x, const at::Tensor& y, const at::Tensor& index, const std::optional<at::Tensor>& skip,
          double temperature, bool normalize, cudaStream_t stream)
      : temperature_(static_cast<T>(temperature)),
        anchors_(x, normalize, 1 / temperature_, stream),
        candidates_(y, normalize, T(1), stream),
        index_(index.const_data_ptr<int64_t>()),
        skip_(skip ? skip->const_data_ptr<int64_t>() : nullptr),
        dim_(x.size(1)),
        store_(at::empty({std::min(kAnchors, x.size(0)) * std::min(kCandidates, y.size(0))}, x.options())),
        stream_(stream) {}

  void forward(const at::Tensor& loss, T* highest, T* total, const at::Tensor& slope) const {
    const auto options = anchors_.table.options();
    const int64_t most = std::min(kAnchors, anchors_.size());
    const at::Tensor store = at::empty({2, most}, options), sum = at::empty({most}, options.dtype(at::kDouble));
    T* numbers = store.mutable_data_ptr<T>();
    for (int64_t first = 0; first < anchors_.size(); first += kAnchors) {
      const at::Tensor anchors = anchors_.tile(first, kAnchors);
      const NceAnchors<T> state{highest + first, numbers, sum.mutable_data_ptr<double>()};
      at::Tensor sums = slope.defined() ? slope.narrow(0, first, anchors.size(0)) : slope;
      T* into = sums.defined() ? sums.mutable_data_ptr<T>() : nullptr;
      for (int64_t begin = 0; begin < candidates_.size(); begin += kCandidates) {
        const at::Tensor tile = candidates_.tile(begin, kCandidates), block = product(anchors, tile);
        check(nce_weigh(view(block, first, begin), state, begin == 0, numbers + most, into, dim_, stream_));
        if (into) at::addmm_out(sums, sums, block, tile, begin > 0 ? 1 : 0);
      }
      check(nce_finish(state, anchors.size(0), dim_, index_ + first, candidates_.table.template const_data_ptr<T>(),
                       loss.mutable_data_ptr<T>() + first, total + first, into, stream_));
      if (into) anchors_.undo_length(first, 1 / temperature_, sums, stream_);
    }
  }

  void backward(const T* grad, const T* highest, const T* total, const at::Tensor& out) const {
    for (int64_t begin = 0; begin < candidates_.size(); begin += kCandidates) {
      const at::Tensor tile = candidates_.tile(begin, kCandidates);
      at::Tensor sums = out.narrow(0, begin, tile.size(0));
      for (int64_t first = 0; first < anchors_.size(); first += kAnchors) {
        const at::Tensor anchors = anchors_.tile(first, kAnchors), block = product(anchors, tile);
        check(nce_slopes(view(block, first, begin), highest + first, total + first, grad + first, stream_));
        at::addmm_out(sums, sums, block.t(), anchors, first > 0 ? 1 : 0);
      }
      if (candidates_.lengths()) candidates_.undo_length(begin, T(1), sums, stream_);
    }
  }

 private:
  at::Tensor product(const at::Tensor& anchors, const at::Tensor& tile) const {
    const int64_t rows = anchors.size(0), count = tile.size(0);
    at::Tensor block = store_.narrow(0, 0, rows * count).view({rows, count});
    at::mm_out(block, anchors, tile.t());
    return block;
  }

  NceTile<T> view(const at::Tensor& block, int64_t first, int64_t begin) const {
    return {block.mutable_data_ptr<T>(),
            index_ + first,
            skip_ ? skip_ + first : nullptr,
            block.size(0),
            begin,
            block.size(1)};
  }

  const T temperature_;
  const Rows<T> anchors_, candidates_;  // the anchors divided by the temperature
  const int64_t *index_, *skip_;
  const int64_t dim_;
  const at::Tensor store_;
  const cudaStream_t stream_;
};

// Checks what both passes take; returns it contiguous.
struct Arguments {
  at::Tensor x, y, index;
  std::optional<at::Tensor> skip;

  Arguments(const char* op, const at::Tensor& x_in, const at::Tensor& y_in, const at::Tensor& index_in,
            const std::optional<at::Tensor>& skip_in, double temperature, cudaStream_t stream)
      : x(x_in.contiguous()), y(y_in.contiguous()), index(index_in.contiguous()) {
    check_info_nce(x, y, temperature, op);
    check_column(index, op, "index", stream);
    if (!skip_in) return;
    skip = skip_in->contiguous();
    check_column(*skip, op, "skip", stream);
  }

 private:
  void check_column(const at::Tensor& ids, const char* op, const char* name, cudaStream_t stream) const {
    check_dim(ids, 1, op, name);
    check_dtype(ids, at::kLong, op, name);
    check_size(ids, 0, x.size(0), op, name);
    check_device(ids, x, op, name);
    check_device_ids(ids, y.size(0), op, name, stream);
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& x, const at::Tensor& y,
                                                       const at::Tensor& index, const std::optional<at::Tensor>& skip,
                                                       double temperature, bool normalize, bool want_slope) {
  const DeviceScope scope(x);
  const Arguments in("info_nce", x, y, index, skip, temperature, scope.stream());
  const at::Tensor loss = at::empty({x.size(0)}, x.options()), softmax = at::empty({2, x.size(0)}, x.options());
  const at::Tensor slope = at::empty({want_slope ? x.size(0) : 0, x.size(1)}, x.options());
  const auto run = [&]<typename T>(T) {
    T* highest = softmax.mutable_data_ptr<T>();
    InfoNce<T>(in.x, in.y, in.index, in.skip, temperature, normalize, scope.stream())
        .forward(loss, highest, highest + x.size(0), want_slope ? slope : at::Tensor());
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, softmax, slope};
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& softmax, const at::Tensor& x, const at::Tensor& y,
                    const at::Tensor& index, const std::optional<at::Tensor>& skip, double temperature,
                    bool normalize) {
  const char* op = "info_nce_backward";
  const DeviceScope scope(x);
  const Arguments in(op, x, y, index, skip, temperature, scope.stream());
  check_softmax(grad, softmax, x, 2, op);
  const at::Tensor slope = grad.contiguous(), total = softmax.contiguous(), out = at::empty(y.sizes(), y.options());
  const auto run = [&]<typename T>(T) {
    const T* highest = total.const_data_ptr<T>();
    InfoNce<T>(in.x, in.y, in.index, in.skip, temperature, normalize, scope.stream())
        .backward(slope.const_data_ptr<T>(), highest, highest + x.size(0), out);
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("info_nce", &forward);
  m.impl("info_nce_backward", &backward);
}

}  // namespace mmfast
