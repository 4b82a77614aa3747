// The mean of 1 - cos over paired rows and its slopes: a warp per row.
#include "cosine_loss.h"
#include "rows.h"

namespace mmfast {
namespace {

constexpr double kEps = 1e-8;  // least length of a row in a cosine

template <typename T>
__global__ void cosine_kernel(const T* x, const T* y, int64_t rows, int64_t dim, double* each, T* slope_x, T* slope_y) {
  const T scale = static_cast<T>(1.0 / static_cast<double>(rows));
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const int64_t at = r * dim;
    const T inverse_x = inverse_length(x + at, dim, T(kEps)), inverse_y = inverse_length(y + at, dim, T(kEps));
    const T cosine = warp_dot(x + at, y + at, dim) * inverse_x * inverse_y;
    if (lane_of() == 0) each[r] = 1 - static_cast<double>(cosine);
    for (int64_t d = at + lane_of(); d < at + dim; d += kWarp) {
      slope_x[d] = -scale * y[d] * inverse_y;
      slope_y[d] = -scale * x[d] * inverse_x;
    }
    unit_backward(x + at, inverse_x, T(kEps), dim, slope_x + at);
    unit_backward(y + at, inverse_y, T(kEps), dim, slope_y + at);
  }
}

}  // namespace

template <typename T>
cudaError_t cosine_loss_forward(const T* x, const T* y, int64_t rows, int64_t dim, double* each, T* loss, T* slope_x,
                                T* slope_y, cudaStream_t stream) {
  MMFAST_LAUNCH(cosine_kernel<T>, blocks_for(rows, kRowWarps), kRowThreads, 0, stream, x, y, rows, dim, each, slope_x,
                slope_y);
  MMFAST_LAUNCH(sum_kernel<T>, 1, kRowThreads, 0, stream, each, rows, 1.0 / static_cast<double>(rows), loss);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T) \
  template cudaError_t cosine_loss_forward(const T*, const T*, int64_t, int64_t, double*, T*, T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
