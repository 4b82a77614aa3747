// The kernels round the products of the knn ops; a warp per row.
#include <cmath>
#include <limits>

#include "knn_graph.h"

namespace mmfast {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = kWarps * kWarp;

template <typename T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
template <typename T>
constexpr T kLargest = std::numeric_limits<T>::max();

__device__ int64_t first_row() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; }
__device__ int64_t row_step() { return int64_t{gridDim.x} * kWarps; }

template <typename T>
__global__ void normalise_kernel(T* rows, int64_t count, int64_t width, bool cosine, bool* bad) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < count; r += row_step()) {
    T* row = rows + r * width;
    double square = 0;
    for (int64_t f = lane; f < width; f += kWarp) square += static_cast<double>(row[f]) * row[f];
    square = warp_sum(square);
    // A square that is finite in T also bounds every inner product, so no product can overflow.
    const double most = cosine ? kLargest<double> : static_cast<double>(kLargest<T>);
    if (lane == 0 && !(square <= most)) bad[r] = true;
    if (!cosine) continue;
    const double length = std::sqrt(square), scale = square == 0 ? kNaN<double> : 1 / (length < 1e-12 ? 1e-12 : length);
    for (int64_t f = lane; f < width; f += kWarp) row[f] = static_cast<T>(row[f] * scale);
  }
}

template <typename T>
__global__ void take_self_kernel(T* scores, int64_t size, int64_t first_id, int32_t* self_ids, T* self_scores,
                                 int64_t stride) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x; r < size; r += step) {
    T& score = scores[r * size + r];
    if (self_ids) {
      self_ids[r * stride] = static_cast<int32_t>(first_id + r);
      self_scores[r * stride] = score == score ? score : T(0);
    }
    score = kNothing<T>;
  }
}

template <typename T>
__global__ void count_kernel(const T* scores, int64_t rows, int64_t columns, double eta, int64_t* counts) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    int count = 0;
    for (int64_t c = lane; c < columns; c += kWarp) count += static_cast<double>(scores[r * columns + c]) > eta;
    count = warp_sum(count);
    if (lane == 0) counts[r] += count;
  }
}

template <typename T>
__global__ void write_kernel(const T* scores, int64_t rows, int64_t columns, int64_t first_id, double eta,
                             int64_t* next, const int64_t* end, int32_t* ids, T* similarities) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    int64_t slot = next[r];
    for (int64_t base = 0; base < columns; base += kWarp) {
      const int64_t c = base + lane;
      const T score = c < columns ? scores[r * columns + c] : kNothing<T>;
      const bool above = static_cast<double>(score) > eta;
      const uint32_t lanes = warp_ballot(above);
      const int64_t own = slot + __popc(lanes & ((1u << lane) - 1));
      if (above && own < end[r]) {
        ids[own] = static_cast<int32_t>(first_id + c);
        similarities[own] = score;
      }
      slot += __popc(lanes);
    }
    if (lane == 0) next[r] = slot;
  }
}

}  // namespace

template <typename T>
cudaError_t knn_normalise(T* rows, int64_t count, int64_t width, bool cosine, bool* bad, cudaStream_t stream) {
  MMFAST_LAUNCH(normalise_kernel<T>, blocks_for(count, kWarps), kThreads, 0, stream, rows, count, width, cosine, bad);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_take_self(T* scores, int64_t size, int64_t first_id, int32_t* self_ids, T* self_scores, int64_t stride,
                          cudaStream_t stream) {
  MMFAST_LAUNCH(take_self_kernel<T>, blocks_for(size, kThreads), kThreads, 0, stream, scores, size, first_id, self_ids,
                self_scores, stride);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_count_above(const T* scores, int64_t rows, int64_t columns, double eta, int64_t* counts,
                            cudaStream_t stream) {
  MMFAST_LAUNCH(count_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, scores, rows, columns, eta, counts);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_write_above(const T* scores, int64_t rows, int64_t columns, int64_t first_id, double eta, int64_t* next,
                            const int64_t* end, int32_t* ids, T* similarities, cudaStream_t stream) {
  MMFAST_LAUNCH(write_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, scores, rows, columns, first_id, eta,
                next, end, ids, similarities);
  return cudaGetLastError();
}

#define MMFAST_KNN(T)                                                                                         \
  template cudaError_t knn_normalise(T*, int64_t, int64_t, bool, bool*, cudaStream_t);                        \
  template cudaError_t knn_take_self(T*, int64_t, int64_t, int32_t*, T*, int64_t, cudaStream_t);              \
  template cudaError_t knn_count_above(const T*, int64_t, int64_t, double, int64_t*, cudaStream_t);           \
  template cudaError_t knn_write_above(const T*, int64_t, int64_t, int64_t, double, int64_t*, const int64_t*, \
                                       int32_t*, T*, cudaStream_t);
MMFAST_KNN(float)
MMFAST_KNN(double)

}  // namespace mmfast
