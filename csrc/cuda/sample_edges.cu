// Exponential keys of edges (Efraimidis and Spirakis, 2006); a thread per edge.
#include <cmath>
#include <cstring>

#include "../philox.h"
#include "sample_edges.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void keys_kernel(const T* weights, int64_t size, uint64_t seed, uint64_t stream_id, int64_t* keys) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; e < size; e += step) {
    const double weight = weights[e];
    const Philox4 random = philox(seed, static_cast<uint64_t>(e), stream_id);
    const uint64_t bits = (static_cast<uint64_t>(random.word[0] >> 6) << 26) | (random.word[1] >> 6);
    const double key = -std::log((static_cast<double>(bits) + 0.5) * 0x1p-52) / weight;
    const bool good = weight > 0.0 && weight <= 1.7976931348623157e308;
    keys[e] = -1;
    if (good) memcpy(&keys[e], &key, sizeof key);  // positive doubles order like their bits
  }
}

}  // namespace

template <typename T>
cudaError_t sample_edges_keys(const T* weights, int64_t size, uint64_t seed, uint64_t stream_id, int64_t* keys,
                              cudaStream_t stream) {
  MMFAST_LAUNCH(keys_kernel<T>, blocks_for(size, kThreads), kThreads, 0, stream, weights, size, seed, stream_id, keys);
  return cudaGetLastError();
}

template cudaError_t sample_edges_keys(const float*, int64_t, uint64_t, uint64_t, int64_t*, cudaStream_t);
template cudaError_t sample_edges_keys(const double*, int64_t, uint64_t, uint64_t, int64_t*, cudaStream_t);

}  // namespace mmfast
