// One step of Adam on a whole table whose gradient is given for some of its rows, in one pass over table and moments.
#include "adam_rows.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void prepare_kernel(const int64_t* rows, int64_t count, AdamSettings set, const int64_t* step,
                               int32_t* place, AdamStep<T>* common) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *common = AdamStep<T>(set, *step);
  const int64_t threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += threads) {
    place[rows[i]] = static_cast<int32_t>(i);
  }
}

// What a thread loads and stores at once: up to 16 bytes.
template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T at[kSize];
};

// `lanes` threads, a power of two, share a row; a row is num_packs packs.
template <typename T, int kSize>
__global__ void step_kernel(AdamRows<T> s, int64_t num_packs, int lanes) {
  using P = Pack<T, kSize>;
  auto* params = reinterpret_cast<P*>(s.param);
  auto* exp_avgs = reinterpret_cast<P*>(s.exp_avg);
  auto* exp_avg_sqs = reinterpret_cast<P*>(s.exp_avg_sq);
  const auto* grads = reinterpret_cast<const P*>(s.grad);
  const AdamStep<T> common = *s.step;
  const int rows_at_once = blockDim.x / lanes;
  const int64_t step = int64_t{gridDim.x} * rows_at_once;
  for (int64_t r = int64_t{blockIdx.x} * rows_at_once + threadIdx.x / lanes; r < s.num_rows; r += step) {
    const int32_t place = s.place[r];
    for (int64_t c = threadIdx.x % lanes; c < num_packs; c += lanes) {
      const int64_t i = r * num_packs + c;
      P param = params[i], m = exp_avgs[i], v = exp_avg_sqs[i], grad = {};
      if (place >= 0) grad = grads[place * num_packs + c];
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        param.at[j] -= common.move(grad.at[j] + s.weight_decay * param.at[j], m.at[j], v.at[j]);
      }
      params[i] = param;
      exp_avgs[i] = m;
      exp_avg_sqs[i] = v;
    }
  }
}

template <typename T, int kSize>
void launch_step(const AdamRows<T>& s, cudaStream_t stream) {
  const int64_t num_packs = s.width / kSize;
  int lanes = 1;
  while (lanes < kThreads && lanes < num_packs) lanes *= 2;
  MMFAST_LAUNCH((step_kernel<T, kSize>), blocks_for(s.num_rows, kThreads / lanes), kThreads, 0, stream, s, num_packs,
                lanes);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

template <typename T>
cudaError_t adam_rows_prepare(const int64_t* rows, int64_t count, const AdamSettings& set, const int64_t* step,
                              int32_t* place, AdamStep<T>* common, cudaStream_t stream) {
  MMFAST_LAUNCH(prepare_kernel<T>, blocks_for(count, kThreads), kThreads, 0, stream, rows, count, set, step, place,
                common);
  return cudaGetLastError();
}

template <typename T>
cudaError_t adam_rows_step(const AdamRows<T>& s, cudaStream_t stream) {
  constexpr int kSize = 16 / sizeof(T);
  const bool packs =
      s.width % kSize == 0 && aligned(s.param) && aligned(s.exp_avg) && aligned(s.exp_avg_sq) && aligned(s.grad);
  packs ? launch_step<T, kSize>(s, stream) : launch_step<T, 1>(s, stream);
  return cudaGetLastError();
}

#define MMFAST_ADAM(T)                                                                                           \
  template cudaError_t adam_rows_prepare(const int64_t*, int64_t, const AdamSettings&, const int64_t*, int32_t*, \
                                         AdamStep<T>*, cudaStream_t);                                            \
  template cudaError_t adam_rows_step(const AdamRows<T>&, cudaStream_t);
MMFAST_ADAM(float)
MMFAST_ADAM(double)

}  // namespace mmfast
