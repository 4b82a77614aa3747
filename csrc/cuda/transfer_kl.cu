// In-batch KL from IDs to every modality: a block per user walks over the items twice, for the softmax and for the
// slope; backward a block per item walks over the users. Scores live in registers and in one small shared tile.
#include "rows.h"
#include "transfer_kl.h"

namespace mmfast {
namespace {

constexpr int64_t kTile = 64;  // scores of a modality that are held at once

// A softmax over some items: weights are exp(score - highest).
template <typename T>
struct Softmax {
  T highest;
  double sum;

  __device__ double factor(T top) const { return static_cast<double>(std::exp(highest - top)); }
};

// Of the ID weights and one modality: the sum of weight * ((z - highest z) - (w - highest w)).
template <typename T>
struct Seen {
  Softmax<T> ids, content;
  double gap;
};

// `a` and `b` of other items together, in this order.
template <typename T>
__device__ Seen<T> merged(const Seen<T>& a, const Seen<T>& b) {
  if (b.ids.sum == 0) return a;
  if (a.ids.sum == 0) return b;
  const T z = a.ids.highest < b.ids.highest ? b.ids.highest : a.ids.highest;
  const T w = a.content.highest < b.content.highest ? b.content.highest : a.content.highest;
  Seen<T> both{{z, 0}, {w, 0}, 0};
  for (const Seen<T>* part : {&a, &b}) {
    const double factor = part->ids.factor(z);
    const double shift = static_cast<double>(part->ids.highest - z) - static_cast<double>(part->content.highest - w);
    both.gap += factor * (part->gap + part->ids.sum * shift);
    both.ids.sum += part->ids.sum * factor;
    both.content.sum += part->content.sum * part->content.factor(w);
  }
  return both;
}

// The first pass of one user and one modality: a warp takes items warp, warp + kRowWarps, ...
template <typename T>
__device__ Seen<T> seen_of(const KlTables<T>& in, const T* user, const T* content, Seen<T>* parts) {
  Seen<T> mine{{0, 0}, {0, 0}, 0};
  for (int64_t j = threadIdx.x / kWarp; j < in.size; j += kRowWarps) {
    const T z = warp_dot(user, in.items + j * in.dim, in.dim) * in.inverse_tau;
    const T w = warp_dot(user, content + j * in.dim, in.dim) * in.inverse_tau;
    mine = merged(mine, Seen<T>{{z, 1}, {w, 1}, 0});
  }
  __syncthreads();  // the parts of the last modality have been read
  if (lane_of() == 0) parts[threadIdx.x / kWarp] = mine;
  __syncthreads();
  Seen<T> all = parts[0];
  for (int p = 1; p < kRowWarps; ++p) all = merged(all, parts[p]);
  return all;
}

// The weight of a score of table t (0: the IDs) of user b.
template <typename T>
__device__ T weight_of(const KlTables<T>& in, const T* softmax, T score, int64_t t, int64_t b) {
  const T* highest = softmax + t * in.size + b;
  return std::exp(score - *highest) / highest[(1 + in.modalities) * in.size];
}

// tile[m * kTile + t] = factor * (weight of modality m - ID weight) of pair (user, item) t, `count` of them.
template <typename T>
__device__ void fill_tile(const KlTables<T>& in, int64_t user, int64_t user_step, int64_t item, int64_t item_step,
                          int64_t count, const T* softmax, const T* grad, T* tile) {
  for (int64_t t = threadIdx.x / kWarp; t < count; t += kRowWarps) {
    const int64_t b = user + t * user_step, j = item + t * item_step;
    const T* u = in.users + b * in.dim;
    const T ids = weight_of(in, softmax, warp_dot(u, in.items + j * in.dim, in.dim) * in.inverse_tau, 0, b);
    for (int64_t m = 0; m < in.modalities; ++m) {
      const T* c = in.content + (m * in.size + j) * in.dim;
      const T weight = weight_of(in, softmax, warp_dot(u, c, in.dim) * in.inverse_tau, 1 + m, b);
      const T factor = in.inverse_tau * (grad ? grad[b] : T(1));
      if (lane_of() == 0) tile[m * kTile + t] = factor * (weight - ids);
    }
  }
}

template <typename T>
__global__ void forward_kernel(KlTables<T> in, T* loss, T* softmax) {
  __shared__ Seen<T> parts[kRowWarps];
  for (int64_t b = blockIdx.x; b < in.size; b += gridDim.x) {
    double total = 0;
    for (int64_t m = 0; m < in.modalities; ++m) {
      const Seen<T> seen = seen_of(in, in.users + b * in.dim, in.content + m * in.size * in.dim, parts);
      const double divergence = seen.gap / seen.ids.sum - std::log(seen.ids.sum) + std::log(seen.content.sum);
      total += divergence < 0 ? 0 : divergence;  // rounding; NaN stays
      if (threadIdx.x > 0) continue;
      T *highest = softmax + b, *sum = highest + (1 + in.modalities) * in.size;
      highest[0] = seen.ids.highest;
      sum[0] = static_cast<T>(seen.ids.sum);
      highest[(1 + m) * in.size] = seen.content.highest;
      sum[(1 + m) * in.size] = static_cast<T>(seen.content.sum);
    }
    if (threadIdx.x == 0) loss[b] = static_cast<T>(total);
  }
}

// slope_b = sum over items and modalities of (weight - ID weight) * content row
template <typename T>
__global__ void slope_kernel(KlTables<T> in, const T* softmax, T* slope) {
  __shared__ T tile[kKlModalities * kTile];
  for (int64_t b = blockIdx.x; b < in.size; b += gridDim.x) {
    for (int64_t first = 0; first < in.size; first += kTile) {
      const int64_t count = in.size - first < kTile ? in.size - first : kTile;
      __syncthreads();  // the last tile has been used
      fill_tile(in, b, 0, first, 1, count, softmax, static_cast<const T*>(nullptr), tile);
      __syncthreads();
      for (int64_t d = threadIdx.x; d < in.dim; d += kRowThreads) {
        T sum = first > 0 ? slope[b * in.dim + d] : T(0);
        for (int64_t m = 0; m < in.modalities; ++m) {
          const T* content = in.content + (m * in.size + first) * in.dim + d;
          for (int64_t t = 0; t < count; ++t) sum += tile[m * kTile + t] * content[t * in.dim];
        }
        slope[b * in.dim + d] = sum;
      }
    }
  }
}

// out_mj = sum over users of grad * (weight - ID weight) * user row
template <typename T>
__global__ void backward_kernel(KlTables<T> in, const T* grad, const T* softmax, T* out) {
  __shared__ T tile[kKlModalities * kTile];
  for (int64_t j = blockIdx.x; j < in.size; j += gridDim.x) {
    for (int64_t first = 0; first < in.size; first += kTile) {
      const int64_t count = in.size - first < kTile ? in.size - first : kTile;
      __syncthreads();  // the last tile has been used
      fill_tile(in, first, 1, j, 0, count, softmax, grad, tile);
      __syncthreads();
      for (int64_t i = threadIdx.x; i < in.modalities * in.dim; i += kRowThreads) {
        const int64_t m = i / in.dim, d = i % in.dim, at = (m * in.size + j) * in.dim + d;
        T sum = first > 0 ? out[at] : T(0);
        for (int64_t t = 0; t < count; ++t) sum += tile[m * kTile + t] * in.users[(first + t) * in.dim + d];
        out[at] = sum;
      }
    }
  }
}

}  // namespace

template <typename T>
cudaError_t transfer_kl_forward(const KlTables<T>& in, T* loss, T* softmax, T* slope, cudaStream_t stream) {
  const int64_t blocks = blocks_for(in.size, 1);
  MMFAST_LAUNCH(forward_kernel<T>, blocks, kRowThreads, 0, stream, in, loss, softmax);
  MMFAST_LAUNCH(slope_kernel<T>, blocks, kRowThreads, 0, stream, in, softmax, slope);
  return cudaGetLastError();
}

template <typename T>
cudaError_t transfer_kl_backward(const KlTables<T>& in, const T* grad, const T* softmax, T* out, cudaStream_t stream) {
  MMFAST_LAUNCH(backward_kernel<T>, blocks_for(in.size, 1), kRowThreads, 0, stream, in, grad, softmax, out);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                             \
  template cudaError_t transfer_kl_forward(const KlTables<T>&, T*, T*, T*, cudaStream_t); \
  template cudaError_t transfer_kl_backward(const KlTables<T>&, const T*, const T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
