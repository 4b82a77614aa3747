// dct on CUDA: blocks of sequences through torch's real FFT.
#include "dct.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "bind.h"

namespace mmfast {
namespace {

#ifdef MMFAST_EMULATED
constexpr int64_t kBlockBytes = 1 << 14;  // little, so that tests meet several blocks
#else
constexpr int64_t kBlockBytes = 1 << 28;  // of reordered samples at a time; their spectrum takes as much
#endif

// c_k (cos, sin)(pi k / 2N) for k = 0 .. N/2, [N/2 + 1, 2].
at::Tensor rotation_of(int64_t size, const at::TensorOptions& options) {
  const double step = std::numbers::pi / (2 * static_cast<double>(size));
  const at::Tensor angle = at::arange(size / 2 + 1, options.dtype(at::kDouble)).mul_(step);
  at::Tensor rotation = at::stack({at::cos(angle), at::sin(angle)}, 1).mul_(std::sqrt(2 / static_cast<double>(size)));
  rotation.narrow(0, 0, 1).mul_(std::sqrt(0.5));
  return rotation.to(options.dtype());
}

// Transforms all sequences of `size` samples of x, `inner` side by side, into out; they may be one tensor.
template <typename T>
void transform(const at::Tensor& x, int64_t size, int64_t inner, bool inverse, at::Tensor& out, cudaStream_t stream) {
  const at::Tensor rotation = rotation_of(size, x.options());
  const T *in = x.const_data_ptr<T>(), *turn = rotation.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const int64_t sequences = x.numel() / size;
  const int64_t block = std::max<int64_t>(1, kBlockBytes / static_cast<int64_t>(size * sizeof(T)));
  for (int64_t first = 0; first < sequences; first += block) {
    const DctLines lines{first, std::min(block, sequences - first), size, inner};
    if (inverse) {
      const at::Tensor spectrum = at::empty({lines.count, size / 2 + 1, 2}, x.options());
      check(dct_rotate_back(in, turn, lines, spectrum.mutable_data_ptr<T>(), stream));
      const at::Tensor v = at::fft_irfft(at::view_as_complex(spectrum), size).contiguous();
      check(dct_restore(v.const_data_ptr<T>(), lines, to, stream));
    } else {
      const at::Tensor v = at::empty({lines.count, size}, x.options());
      check(dct_reorder(in, lines, v.mutable_data_ptr<T>(), stream));
      const at::Tensor spectrum = at::view_as_real(at::fft_rfft(v)).contiguous();
      check(dct_rotate(spectrum.const_data_ptr<T>(), turn, lines, to, stream));
    }
  }
}

template <typename T>
void run(const at::Tensor& x, int64_t axes, bool inverse, at::Tensor& out, cudaStream_t stream) {
  transform<T>(x, x.size(-1), 1, inverse, out, stream);
  if (axes == 2) transform<T>(out, x.size(-2), x.size(-1), inverse, out, stream);
}

at::Tensor dct(const at::Tensor& x, int64_t axes, bool inverse) {
  check_real(x, "dct", "x");
  TORCH_CHECK(axes == 1 || axes == 2, "dct: axes is ", axes, "; wanted 1 (the last axis) or 2 (the last two)");
  TORCH_CHECK(x.dim() >= axes, "dct: x has ", x.dim(), " dimensions; wanted at least ", axes);
  at::Tensor out = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return out;
  const DeviceScope scope(x);
  const at::Tensor dense = x.contiguous();
  if (x.scalar_type() == at::kFloat) {
    run<float>(dense, axes, inverse, out, scope.stream());
  } else {
    run<double>(dense, axes, inverse, out, scope.stream());
  }
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("dct", &dct); }

}  // namespace mmfast
