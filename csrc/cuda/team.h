// Rows of entries shared among threads: a short row has a warp, a long one a block. Included by .cu files alone.
#pragma once
#include "runtime.h"

namespace mmfast {

constexpr int kTeamWarps = 8;
constexpr int kTeamThreads = kTeamWarps * kWarp;
constexpr int64_t kLongRow = 512;  // entries; a row of more is long

// W warps that work on one row: 1, or all of the block.
template <int W>
struct Team {
  static_assert(W == 1 || W == kTeamWarps);
  int warp, member;  // member: this thread among those of the team
  int64_t first, step;

  __device__ Team()
      : warp(W == 1 ? 0 : threadIdx.x / kWarp),
        member(threadIdx.x % (W * kWarp)),
        first(W == 1 ? int64_t{blockIdx.x} * kTeamWarps + threadIdx.x / kWarp : blockIdx.x),
        step(W == 1 ? int64_t{gridDim.x} * kTeamWarps : gridDim.x) {}

  __device__ int lane() const { return threadIdx.x % kWarp; }
  __device__ bool takes(int64_t entries) const { return (entries > kLongRow) == (W > 1); }
  __device__ void sync() const { W == 1 ? __syncwarp() : __syncthreads(); }

  // The sum and the largest of the team's x, in every thread.
  template <typename T>
  __device__ T sum(T x) const {
    x = warp_sum(x);
    return W == 1 ? x : across(x, [](T a, T b) { return a + b; });
  }
  template <typename T>
  __device__ T max(T x) const {
    x = warp_max(x);
    return W == 1 ? x : across(x, [](T a, T b) { return a < b ? b : a; });
  }

 private:
  template <typename T, typename Join>
  __device__ T across(T x, Join join) const {
    __shared__ T parts[kTeamWarps];
    __syncthreads();
    if (lane() == 0) parts[warp] = x;
    __syncthreads();
    T total = parts[0];
    for (int w = 1; w < kTeamWarps; ++w) total = join(total, parts[w]);
    return total;
  }
};

// The softmax over x [count], `stride` apart, in place.
template <int W, typename T>
__device__ void team_softmax(const Team<W>& team, T* x, int64_t count, int64_t stride) {
  T highest = x[0];
  for (int64_t i = team.member; i < count; i += W * kWarp) highest = x[i * stride] > highest ? x[i * stride] : highest;
  highest = team.max(highest);
  T total = 0;
  for (int64_t i = team.member; i < count; i += W * kWarp) total += x[i * stride] = exp(x[i * stride] - highest);
  total = team.sum(total);
  for (int64_t i = team.member; i < count; i += W * kWarp) x[i * stride] /= total;
}

}  // namespace mmfast
