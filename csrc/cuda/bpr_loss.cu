// The BPR loss of a batch and its gradient: a warp per triple, then a warp per row that occurs in the batch.
#include <cmath>

#include "bpr_loss.h"

namespace mmfast {
namespace {

constexpr int kWarps = 8;  // triples of a block, whose losses are added first
constexpr int kThreads = kWarp * kWarps;

// Loss of one margin and its derivative by the margin.
template <typename T>
__device__ void loss_of(T margin, BprKind kind, T* value, T* derivative) {
  if (kind == BprKind::kLogSigmoid) {
    const T small = std::exp(-std::abs(margin));
    *value = (margin < 0 ? -margin : T(0)) + std::log1p(small);
    *derivative = -(margin > 0 ? small : T(1)) / (1 + small);
    return;
  }
  const T s = 1 / (1 + std::exp(-margin));
  const T rest = 1 / (1 + std::exp(margin));  // 1 - s without its cancellation
  if (kind == BprKind::kEps) {
    *value = -std::log(T(1e-10) + s);
    *derivative = -s * rest / (T(1e-10) + s);
  } else if (kind == BprKind::kRaw) {
    *value = -std::log(s);
    *derivative = -rest;
  } else {
    *value = -std::log2(s);
    *derivative = -rest * T(1.442695040888963407360);
  }
}

template <typename T>
__global__ void forward_kernel(Triples<T> t, BprKind kind, T* slope, double* sums) {
  __shared__ double losses[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t blocks = (t.count + kWarps - 1) / kWarps;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t b = block * kWarps + warp;
    T margin = 0;
    if (b < t.count) {
      const T *u = t.users + t.user[b] * t.dim, *p = t.items + t.pos[b] * t.dim, *n = t.items + t.neg[b] * t.dim;
      for (int64_t d = lane; d < t.dim; d += kWarp) margin += u[d] * (p[d] - n[d]);
    }
    margin = warp_sum(margin);
    if (lane == 0) {
      T value = 0, derivative = 0;
      if (b < t.count) {
        loss_of(margin, kind, &value, &derivative);
        slope[b] = derivative / static_cast<T>(t.count);
      }
      losses[warp] = value;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      double sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += losses[w];
      sums[block] = sum;
    }
    __syncthreads();
  }
}

// One block: the sums of the blocks in an order that depends on their number alone.
template <typename T>
__global__ void mean_kernel(const double* sums, int64_t num_sums, int64_t count, T* loss) {
  __shared__ double parts[kWarps];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < num_sums; i += kThreads) sum += sums[i];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += parts[w];
    *loss = static_cast<T>(total / static_cast<double>(count));
  }
}

// What one entry of a grouped list gives to its row's gradient.
template <typename T>
struct UserEntry {
  Triples<T> t;
  const T *slope, *grad;
  __device__ T operator()(int64_t b, int64_t d) const {
    return *grad * slope[b] * (t.items[t.pos[b] * t.dim + d] - t.items[t.neg[b] * t.dim + d]);
  }
};

// Entries 2b and 2b + 1 are the positive and the negative item of triple b.
template <typename T>
struct ItemEntry {
  Triples<T> t;
  const T *slope, *grad;
  __device__ T operator()(int64_t entry, int64_t d) const {
    const int64_t b = entry / 2;
    const T c = entry % 2 == 0 ? *grad * slope[b] : -(*grad * slope[b]);
    return c * t.users[t.user[b] * t.dim + d];
  }
};

// The warp at the first entry of a row adds up all entries of that row, in the order of the batch.
template <typename T, typename Entry>
__global__ void rows_kernel(Entry entry, Grouped group, T* out) {
  const int64_t warps = int64_t{gridDim.x} * kWarps, dim = entry.t.dim;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; i < group.count; i += warps) {
    const int64_t row = group.row[i];
    if (i > 0 && group.row[i - 1] == row) continue;
    for (int64_t d = threadIdx.x % kWarp; d < dim; d += kWarp) {
      T sum = 0;
      for (int64_t j = i; j < group.count && group.row[j] == row; ++j) sum += entry(group.entry[j], d);
      out[row * dim + d] = sum;
    }
  }
}

}  // namespace

int64_t bpr_loss_sums(int64_t count) { return (count + kWarps - 1) / kWarps; }

template <typename T>
cudaError_t bpr_loss_forward(const Triples<T>& t, BprKind kind, T* slope, double* sums, T* loss, cudaStream_t stream) {
  const int64_t num_sums = bpr_loss_sums(t.count);
  MMFAST_LAUNCH(forward_kernel<T>, blocks_for(num_sums, 1), kThreads, 0, stream, t, kind, slope, sums);
  MMFAST_LAUNCH(mean_kernel<T>, 1, kThreads, 0, stream, sums, num_sums, t.count, loss);
  return cudaGetLastError();
}

template <typename T>
cudaError_t bpr_loss_backward(const Triples<T>& t, const T* slope, const T* grad, const Grouped& users,
                              const Grouped& items, T* grad_users, T* grad_items, cudaStream_t stream) {
  const UserEntry<T> user{t, slope, grad};
  const ItemEntry<T> item{t, slope, grad};
  MMFAST_LAUNCH((rows_kernel<T, UserEntry<T>>), blocks_for(users.count, kWarps), kThreads, 0, stream, user, users,
                grad_users);
  MMFAST_LAUNCH((rows_kernel<T, ItemEntry<T>>), blocks_for(items.count, kWarps), kThreads, 0, stream, item, items,
                grad_items);
  return cudaGetLastError();
}

#define MMFAST_BPR(T)                                                                                               \
  template cudaError_t bpr_loss_forward(const Triples<T>&, BprKind, T*, double*, T*, cudaStream_t);                 \
  template cudaError_t bpr_loss_backward(const Triples<T>&, const T*, const T*, const Grouped&, const Grouped&, T*, \
                                         T*, cudaStream_t);
MMFAST_BPR(float)
MMFAST_BPR(double)

}  // namespace mmfast
