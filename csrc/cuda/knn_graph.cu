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
constexpr T kLeastLength = sizeof(T) == 4 ? T(0x1p-50) : T(0x1p-483);  // its square: min / epsilon and some more
template <typename T>
constexpr T kLargest = std::numeric_limits<T>::max();

__device__ int64_t first_row() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; }
__device__ int64_t row_step() { return int64_t{gridDim.x} * kWarps; }

template <typename T>
__global__ void normalise_kernel(T* rows, int64_t count, int64_t width, bool cosine, bool* bad, T* lengths) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < count; r += row_step()) {
    T* row = rows + r * width;
    double square = 0;
    for (int64_t f = lane; f < width; f += kWarp) square += static_cast<double>(row[f]) * row[f];
    square = warp_sum(square);
    // The square bounds every inner product too: nothing overflows, however a sum is rounded on its way.
    const double most = cosine ? kLargest<double> : static_cast<double>(kLargest<T>) / 4;
    const double length = std::sqrt(square);
    if (lane == 0 && !(square <= most)) bad[r] = true;
    if (lane == 0) lengths[r] = static_cast<T>((cosine ? 1 : length) * (1 + 1e-6)) + kLeastLength<T>;
    if (!cosine) continue;
    const double scale = square == 0 ? kNaN<double> : 1 / (length < 1e-12 ? 1e-12 : length);
    for (int64_t f = lane; f < width; f += kWarp) row[f] = static_cast<T>(row[f] * scale);
  }
}

template <typename T>
__global__ void take_self_kernel(T* scores, int64_t size, int64_t first_id, TileRows<T> deciding, int32_t* self_ids,
                                 T* self_scores, int64_t stride) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < size; r += row_step()) {
    if (self_ids) {
      const T* x = deciding.x + r * deciding.width;
      const T score = decisive_product(x, x, deciding.width, lane);
      if (lane == 0) {
        self_ids[r * stride] = static_cast<int32_t>(first_id + r);
        self_scores[r * stride] = score == score ? score : T(0);
      }
    }
    if (lane == 0) scores[r * size + r] = kNothing<T>;
  }
}

template <typename T>
__global__ void count_kernel(const T* scores, int64_t rows, int64_t columns, TileRows<T> deciding, double eta,
                             int64_t* counts) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const T slack = deciding.error * deciding.x_lengths[r];
    int count = 0;
    for (int64_t base = 0; base < columns; base += kWarp) {
      const int64_t c = base + lane;
      const T score = c < columns ? scores[r * columns + c] : kNothing<T>;
      const T off = c < columns ? slack * deciding.lengths[c] : T(0);
      const bool above = static_cast<double>(score - off) > eta,
                 open = !above && static_cast<double>(score + off) > eta;
      count += above;
      for (uint32_t lanes = warp_ballot(open); lanes; lanes &= lanes - 1) {
        const T* other = deciding.others + (base + __ffs(lanes) - 1) * deciding.width;
        const T number = decisive_product(deciding.x + r * deciding.width, other, deciding.width, lane);
        count += lane == 0 && static_cast<double>(number) > eta;
      }
    }
    count = warp_sum(count);
    if (lane == 0) counts[r] += count;
  }
}

template <typename T>
__global__ void write_kernel(const T* scores, int64_t rows, int64_t columns, int64_t first_id, TileRows<T> deciding,
                             double eta, int64_t* next, const int64_t* end, int32_t* ids, T* similarities) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t r = first_row(); r < rows; r += row_step()) {
    const T slack = deciding.error * deciding.x_lengths[r];
    int64_t slot = next[r];
    for (int64_t base = 0; base < columns; base += kWarp) {
      const int64_t c = base + lane;
      T score = c < columns ? scores[r * columns + c] : kNothing<T>;
      const T off = c < columns ? slack * deciding.lengths[c] : T(0);
      const bool open = static_cast<double>(score + off) > eta;
      for (uint32_t lanes = warp_ballot(open); lanes; lanes &= lanes - 1) {
        const int chosen = __ffs(lanes) - 1;
        const T* other = deciding.others + (base + chosen) * deciding.width;
        const T number = decisive_product(deciding.x + r * deciding.width, other, deciding.width, lane);
        if (lane == chosen) score = number;
      }
      const bool above = open && static_cast<double>(score) > eta;
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
cudaError_t knn_normalise(T* rows, int64_t count, int64_t width, bool cosine, bool* bad, T* lengths,
                          cudaStream_t stream) {
  MMFAST_LAUNCH(normalise_kernel<T>, blocks_for(count, kWarps), kThreads, 0, stream, rows, count, width, cosine, bad,
                lengths);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_take_self(T* scores, int64_t size, int64_t first_id, const TileRows<T>& deciding, int32_t* self_ids,
                          T* self_scores, int64_t stride, cudaStream_t stream) {
  MMFAST_LAUNCH(take_self_kernel<T>, blocks_for(size, kWarps), kThreads, 0, stream, scores, size, first_id, deciding,
                self_ids, self_scores, stride);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_count_above(const T* scores, int64_t rows, int64_t columns, const TileRows<T>& deciding, double eta,
                            int64_t* counts, cudaStream_t stream) {
  MMFAST_LAUNCH(count_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, scores, rows, columns, deciding, eta,
                counts);
  return cudaGetLastError();
}

template <typename T>
cudaError_t knn_write_above(const T* scores, int64_t rows, int64_t columns, int64_t first_id,
                            const TileRows<T>& deciding, double eta, int64_t* next, const int64_t* end, int32_t* ids,
                            T* similarities, cudaStream_t stream) {
  MMFAST_LAUNCH(write_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, scores, rows, columns, first_id,
                deciding, eta, next, end, ids, similarities);
  return cudaGetLastError();
}

#define MMFAST_KNN(T)                                                                                                \
  template cudaError_t knn_normalise(T*, int64_t, int64_t, bool, bool*, T*, cudaStream_t);                           \
  template cudaError_t knn_take_self(T*, int64_t, int64_t, const TileRows<T>&, int32_t*, T*, int64_t, cudaStream_t); \
  template cudaError_t knn_count_above(const T*, int64_t, int64_t, const TileRows<T>&, double, int64_t*,             \
                                       cudaStream_t);                                                                \
  template cudaError_t knn_write_above(const T*, int64_t, int64_t, int64_t, const TileRows<T>&, double, int64_t*,    \
                                       const int64_t*, int32_t*, T*, cudaStream_t);
MMFAST_KNN(float)
MMFAST_KNN(double)

}  // namespace mmfast
