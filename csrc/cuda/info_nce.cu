// InfoNCE round the matrix products: rows of length one, online softmax weights of a tile of scores, their slopes.
#include "info_nce.h"
#include "rows.h"

namespace mmfast {
namespace {

constexpr double kEps = 1e-12;  // least length of a row that is normalised

template <typename T>
__global__ void prepare_kernel(const T* x, int64_t rows, int64_t dim, T scale, T* out, T* inverse) {
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    T factor = scale;
    if (inverse) {
      const T by_length = inverse_length(x + r * dim, dim, T(kEps));
      if (lane_of() == 0) inverse[r] = by_length;
      factor *= by_length;
    }
    for (int64_t d = lane_of(); d < dim; d += kWarp) out[r * dim + d] = x[r * dim + d] * factor;
  }
}

// The largest x of the block, in every thread.
template <typename T>
__device__ T block_max(T x) {
  __shared__ T parts[kRowWarps];
  x = warp_max(x);
  __syncthreads();  // the last maxima have been read
  if (lane_of() == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  for (int w = 0; w < kRowWarps; ++w) x = x < parts[w] ? parts[w] : x;
  return x;
}

// A block per row of the tile.
template <typename T>
__global__ void weigh_kernel(NceTile<T> tile, NceAnchors<T> anchors, bool first, T* rescale) {
  const T none = static_cast<T>(-INFINITY);
  for (int64_t r = blockIdx.x; r < tile.rows; r += gridDim.x) {
    T* scores = tile.scores + r * tile.count;
    const int64_t skip = tile.skip ? tile.skip[r] - tile.begin : -1, positive = tile.index[r] - tile.begin;
    const T before = first ? none : anchors.highest[r];
    T highest = before;
    for (int64_t c = threadIdx.x; c < tile.count; c += kRowThreads) {
      if (c == positive) anchors.positive[r] = scores[c];
      if (c != skip) highest = highest < scores[c] ? scores[c] : highest;
    }
    highest = block_max(highest);
    T sum = 0;
    for (int64_t c = threadIdx.x; c < tile.count; c += kRowThreads) {
      const T weight = c == skip ? T(0) : std::exp(scores[c] - highest);
      scores[c] = weight;
      sum += weight;
    }
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x > 0) continue;
    const T factor = before == highest ? T(1) : std::exp(before - highest);
    anchors.sum[r] = (first ? 0 : anchors.sum[r] * static_cast<double>(factor)) + total;
    anchors.highest[r] = highest;
    rescale[r] = factor;
  }
}

template <typename T>
__global__ void rescale_kernel(T* sums, int64_t rows, int64_t dim, const T* rescale) {
  for (int64_t i = first_item(); i < rows * dim; i += item_step()) {
    const T factor = rescale[i / dim];
    if (factor != 1) sums[i] *= factor;
  }
}

template <typename T>
__global__ void finish_kernel(NceAnchors<T> anchors, int64_t rows, int64_t dim, const int64_t* index,
                              const T* candidates, T* loss, T* total, T* sums) {
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const T log_sum = static_cast<T>(std::log(anchors.sum[r])), share = static_cast<T>(1 / anchors.sum[r]);
    if (lane_of() == 0) {
      loss[r] = (anchors.highest[r] - anchors.positive[r]) + log_sum;
      total[r] = static_cast<T>(anchors.sum[r]);
    }
    if (!sums) continue;
    const T* positive = candidates + index[r] * dim;
    for (int64_t d = lane_of(); d < dim; d += kWarp) sums[r * dim + d] = sums[r * dim + d] * share - positive[d];
  }
}

template <typename T>
__global__ void slopes_kernel(NceTile<T> tile, const T* highest, const T* total, const T* grad) {
  for (int64_t i = first_item(); i < tile.rows * tile.count; i += item_step()) {
    const int64_t r = i / tile.count, c = tile.begin + i % tile.count;
    const bool skipped = tile.skip && tile.skip[r] == c;
    const T weight = skipped ? T(0) : std::exp(tile.scores[i] - highest[r]) / total[r];
    tile.scores[i] = grad[r] * (weight - (tile.index[r] == c ? T(1) : T(0)));
  }
}

template <typename T>
__global__ void undo_kernel(const T* prepared, const T* inverse, int64_t rows, int64_t dim, T scale, T factor,
                            T* grad) {
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const T *unit = prepared + r * dim, by_length = inverse ? inverse[r] : T(1);
    const bool held = !inverse || by_length >= 1 / T(kEps);
    T* g = grad + r * dim;
    const T along = held ? T(0) : warp_dot(unit, g, dim) / (scale * scale);
    for (int64_t d = lane_of(); d < dim; d += kWarp) g[d] = (g[d] - along * unit[d]) * by_length * factor;
  }
}

}  // namespace

template <typename T>
cudaError_t nce_prepare(const T* x, int64_t rows, int64_t dim, T scale, T* out, T* inverse, cudaStream_t stream) {
  MMFAST_LAUNCH(prepare_kernel<T>, blocks_for(rows, kRowWarps), kRowThreads, 0, stream, x, rows, dim, scale, out,
                inverse);
  return cudaGetLastError();
}

template <typename T>
cudaError_t nce_weigh(const NceTile<T>& tile, const NceAnchors<T>& anchors, bool first, T* rescale, T* sums,
                      int64_t dim, cudaStream_t stream) {
  MMFAST_LAUNCH(weigh_kernel<T>, blocks_for(tile.rows, 1), kRowThreads, 0, stream, tile, anchors, first, rescale);
  if (sums && !first) {
    MMFAST_LAUNCH(rescale_kernel<T>, blocks_for(tile.rows * dim, kRowThreads), kRowThreads, 0, stream, sums, tile.rows,
                  dim, rescale);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t nce_finish(const NceAnchors<T>& anchors, int64_t rows, int64_t dim, const int64_t* index,
                       const T* candidates, T* loss, T* total, T* sums, cudaStream_t stream) {
  MMFAST_LAUNCH(finish_kernel<T>, blocks_for(rows, kRowWarps), kRowThreads, 0, stream, anchors, rows, dim, index,
                candidates, loss, total, sums);
  return cudaGetLastError();
}

template <typename T>
cudaError_t nce_slopes(const NceTile<T>& tile, const T* highest, const T* total, const T* grad, cudaStream_t stream) {
  MMFAST_LAUNCH(slopes_kernel<T>, blocks_for(tile.rows * tile.count, kRowThreads), kRowThreads, 0, stream, tile,
                highest, total, grad);
  return cudaGetLastError();
}

template <typename T>
cudaError_t nce_undo_length(const T* prepared, const T* inverse, int64_t rows, int64_t dim, T scale, T factor, T* grad,
                            cudaStream_t stream) {
  MMFAST_LAUNCH(undo_kernel<T>, blocks_for(rows, kRowWarps), kRowThreads, 0, stream, prepared, inverse, rows, dim,
                scale, factor, grad);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                                   \
  template cudaError_t nce_prepare(const T*, int64_t, int64_t, T, T*, T*, cudaStream_t);                        \
  template cudaError_t nce_weigh(const NceTile<T>&, const NceAnchors<T>&, bool, T*, T*, int64_t, cudaStream_t); \
  template cudaError_t nce_finish(const NceAnchors<T>&, int64_t, int64_t, const int64_t*, const T*, T*, T*, T*, \
                                  cudaStream_t);                                                                \
  template cudaError_t nce_slopes(const NceTile<T>&, const T*, const T*, const T*, cudaStream_t);               \
  template cudaError_t nce_undo_length(const T*, const T*, int64_t, int64_t, T, T, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
