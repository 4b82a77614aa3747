// Kernels with one fault each, and healthy ones, for tests/test_emulated_device.py.
#include <stdexcept>
#include <string>

#include "runtime.h"

namespace {

using mmfast::warp_sum;

__global__ void half_a_block_waits(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void some_lanes_sum(float* out) {
  if (threadIdx.x % 32 < 20) out[threadIdx.x] = warp_sum(1.0f);
}

__global__ void reads_before_writing(float* out) {
  __shared__ float fixed[64];
  MMFAST_DYNAMIC_SHARED(float, asked);
  out[threadIdx.x] = threadIdx.x % 2 ? fixed[threadIdx.x] : asked[threadIdx.x];
  fixed[threadIdx.x] = asked[threadIdx.x] = 1;  // the next block must not see this
}

__global__ void writes_too_far(float* out) {
  MMFAST_DYNAMIC_SHARED(float, asked);
  asked[threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}

__global__ void stops(float* out) {
  if (threadIdx.x == 40) __trap();
  __syncthreads();
  out[threadIdx.x] = 1;
}

// A missing barrier: which neighbour a thread sees depends on the order in which threads run.
__global__ void races(float* out) {
  __shared__ float mine[64];
  mine[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = mine[63 - threadIdx.x];
}

__global__ void adds_up(float* out) {
  __shared__ float sums[2];
  const float sum = warp_sum(static_cast<float>(threadIdx.x));
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  out[threadIdx.x] = sums[0] + sums[1] + static_cast<float>(mmfast::warp_ballot(threadIdx.x % 32 < 4));
}

using Kernel = void (*)(float*);
constexpr Kernel kKernels[] = {half_a_block_waits, two_barriers, some_lanes_sum, reads_before_writing,
                               writes_too_far,     stops,        races,          adds_up};

}  // namespace

// Runs a kernel on `blocks` of `threads` that fill `out`; returns what the device says.
extern "C" __attribute__((visibility("default"))) const char* run(int kernel, int blocks, int threads, int shared_bytes,
                                                                  float* out) {
  static std::string text;
  try {
    MMFAST_LAUNCH(kKernels[kernel], blocks, threads, shared_bytes, nullptr, out);
    text = cudaGetErrorString(cudaGetLastError());
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  return text.c_str();
}

extern "C" __attribute__((visibility("default"))) void convert(const float* x, int count, uint16_t* half,
                                                               uint16_t* bfloat) {
  for (int i = 0; i < count; ++i) {
    half[i] = mmfast::Half(x[i]).bits;
    bfloat[i] = mmfast::BFloat16(x[i]).bits;
  }
}

extern "C" __attribute__((visibility("default"))) void widen(const uint16_t* bits, int count, float* half,
                                                             float* bfloat) {
  for (int i = 0; i < count; ++i) {
    half[i] = static_cast<float>(std::bit_cast<mmfast::Half>(bits[i]));
    bfloat[i] = static_cast<float>(std::bit_cast<mmfast::BFloat16>(bits[i]));
  }
}
