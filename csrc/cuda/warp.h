// Exchange among the 32 threads of a warp, all of which must take part; included through runtime.h.
#pragma once
#include <cstdint>

namespace mmfast {

constexpr uint32_t kAllLanes = 0xffffffffu;

// x of the lane whose number differs in the bits of `mask`.
template <typename T>
__device__ __forceinline__ T warp_xor(T x, int mask) {
  return __shfl_xor_sync(kAllLanes, x, mask);
}

// x of one lane.
template <typename T>
__device__ __forceinline__ T warp_broadcast(T x, int lane) {
  return __shfl_sync(kAllLanes, x, lane);
}

// Bit i is the predicate of lane i.
__device__ __forceinline__ uint32_t warp_ballot(bool predicate) { return __ballot_sync(kAllLanes, predicate); }

// The sum over the warp, the same bits in every lane.
template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += warp_xor(x, mask);
  return x;
}

// The largest x of the warp, in every lane.
template <typename T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = warp_xor(x, mask);
    x = x < other ? other : x;
  }
  return x;
}

}  // namespace mmfast
