// Mean and variance: every block those of a stretch of the table, in two passes; then the stretches are merged in
// order.
#include "moments.h"
#include "rows.h"

namespace mmfast {
namespace {

template <typename T>
__global__ void stretch_kernel(const T* x, int64_t count, int64_t stretch, int64_t stretches, double* parts) {
  for (int64_t s = blockIdx.x; s < stretches; s += gridDim.x) {
    const int64_t first = s * stretch, last = first + stretch < count ? first + stretch : count;
    double sum = 0, squares = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += kRowThreads) sum += static_cast<double>(x[i]);
    const double mean = block_sum(sum) / static_cast<double>(last - first);
    for (int64_t i = first + threadIdx.x; i < last; i += kRowThreads) {
      const double gap = static_cast<double>(x[i]) - mean;
      squares += gap * gap;
    }
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
      parts[2 * s] = mean;
      parts[2 * s + 1] = squares;
    }
  }
}

template <typename T>
__global__ void merge_kernel(const double* parts, int64_t count, int64_t stretch, int64_t stretches, T* out) {
  double mean = 0, squares = 0, seen = 0;
  for (int64_t s = 0; s < stretches; ++s) {
    const int64_t left = count - s * stretch;
    const double here = static_cast<double>(left < stretch ? left : stretch), together = seen + here;
    const double gap = parts[2 * s] - mean;
    mean += gap * here / together;
    squares += parts[2 * s + 1] + gap * gap * seen * here / together;
    seen = together;
  }
  out[0] = static_cast<T>(mean);
  out[1] = static_cast<T>(squares / (seen - 1));
}

template <typename T>
__global__ void backward_kernel(const T* grad, const T* moments, const T* x, int64_t count, T* out) {
  const T scale = static_cast<T>(2 * static_cast<double>(grad[1]) / static_cast<double>(count - 1));
  const T constant = static_cast<T>(static_cast<double>(grad[0]) / static_cast<double>(count)), mean = moments[0];
  for (int64_t i = first_item(); i < count; i += item_step()) out[i] = scale * (x[i] - mean) + constant;
}

}  // namespace

template <typename T>
cudaError_t moments_forward(const T* x, int64_t count, double* parts, T* out, cudaStream_t stream) {
  const int64_t least = 16 * kRowThreads, wanted = (count + kMomentParts - 1) / kMomentParts;
  const int64_t stretch = std::max(least, wanted), stretches = (count + stretch - 1) / stretch;
  MMFAST_LAUNCH(stretch_kernel<T>, blocks_for(stretches, 1), kRowThreads, 0, stream, x, count, stretch, stretches,
                parts);
  MMFAST_LAUNCH(merge_kernel<T>, 1, 1, 0, stream, parts, count, stretch, stretches, out);
  return cudaGetLastError();
}

template <typename T>
cudaError_t moments_backward(const T* grad, const T* moments, const T* x, int64_t count, T* out, cudaStream_t stream) {
  MMFAST_LAUNCH(backward_kernel<T>, blocks_for(count, 4 * kRowThreads), kRowThreads, 0, stream, grad, moments, x, count,
                out);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                         \
  template cudaError_t moments_forward(const T*, int64_t, double*, T*, cudaStream_t); \
  template cudaError_t moments_backward(const T*, const T*, const T*, int64_t, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
