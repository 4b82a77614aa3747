// Mean and unbiased variance of all entries of a table, and their gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../loss_checks.h"
#include "simd.h"
#include "table.h"

namespace mmfast {
namespace {

constexpr int64_t kBlock = 4096;  // numbers summed in a block; blocks are merged in order

struct Moments {
  double mean, squares;  // squares: the sum of (x - mean)^2
};

// Two passes over a block in cache, so that a large mean does not eat the variance.
template <typename T>
MMFAST_CLONES Moments moments_of(const T* x, int64_t count) {
  constexpr int kLanes = 8;
  double sum[kLanes] = {}, squares[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += x[i + lane];
  }
  for (int64_t i = whole; i < count; ++i) sum[0] += x[i];
  double mean = 0;
  for (const double s : sum) mean += s;
  mean /= static_cast<double>(count);
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) squares[lane] += (x[i + lane] - mean) * (x[i + lane] - mean);
  }
  for (int64_t i = whole; i < count; ++i) squares[0] += (x[i] - mean) * (x[i] - mean);
  double total = 0;
  for (const double s : squares) total += s;
  return {mean, total};
}

template <typename T>
MMFAST_CLONES void shifted(const T* x, int64_t count, T scale, T mean, T constant, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = scale * (x[i] - mean) + constant;
}

template <typename T>
void forward(const T* x, int64_t size, T* out) {
  std::vector<Moments> blocks((size + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      blocks[b] = moments_of(x + b * kBlock, std::min(kBlock, size - b * kBlock));
    }
  });
  Moments all{0, 0};
  double seen = 0;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const double count = static_cast<double>(std::min(kBlock, size - static_cast<int64_t>(b) * kBlock));
    const double gap = blocks[b].mean - all.mean, together = seen + count;
    all.mean += gap * count / together;
    all.squares += blocks[b].squares + gap * gap * seen * count / together;
    seen = together;
  }
  out[0] = static_cast<T>(all.mean);
  out[1] = static_cast<T>(all.squares / (seen - 1));
}

at::Tensor moments(const at::Tensor& x) {
  check_moments(x, "moments");
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty({2}, x.options());
  const auto run = [&]<typename T>(T) { forward(dense.const_data_ptr<T>(), dense.numel(), out.mutable_data_ptr<T>()); };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

at::Tensor moments_backward(const at::Tensor& grad, const at::Tensor& moments, const at::Tensor& x) {
  check_moments_backward(grad, moments, x, "moments_backward");
  const at::Tensor dense = x.contiguous();
  at::Tensor out = empty_table(x.sizes(), x.options());
  const auto run = [&]<typename T>(T) {
    const double size = static_cast<double>(dense.numel());
    const T scale = static_cast<T>(2 * grad[1].item<double>() / (size - 1)), mean = moments[0].item<T>();
    const T constant = static_cast<T>(grad[0].item<double>() / size);
    at::parallel_for(0, dense.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
      shifted(dense.const_data_ptr<T>() + begin, end - begin, scale, mean, constant, out.mutable_data_ptr<T>() + begin);
    });
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("moments", &moments);
  m.impl("moments_backward", &moments_backward);
}

}  // namespace mmfast
