// The part of CUDA that mmfast's kernels use, for a C++20 compiler: names, vector types, functions, and the launch.
// A block's threads are fibers (machine.cpp); blocks run one after the other. Included through runtime.h only.
#pragma once
#include <math.h>

#include <bit>
#include <cstdio>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#include "numbers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static thread_local  // thread_local: the machine finds this memory, and poisons it for every block

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
using cudaStream_t = struct CUstream_st*;

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) memset(to, value, bytes);
  return cudaSuccess;
}

namespace mmfast::emulated {

using Where = std::source_location;

// Runs `body` once for every thread of every block. What a device would refuse or hang on is thrown as an exception
// that names the place; an impossible configuration is left to cudaGetLastError, as on a device.
void launch(int64_t blocks, int64_t threads, int64_t shared_bytes, const std::function<void()>& body);
void* dynamic_shared();

void wait_for_block(Where where);
// Hands `x` to the other lanes of the warp, takes theirs into `all` [32 * bytes], and returns the own lane.
int exchange(const void* x, void* all, size_t bytes, const char* what, Where where);
[[noreturn]] void stop();

template <typename T>
int exchange(T x, T* all, const char* what, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  return exchange(&x, all, sizeof(T), what, where);
}

}  // namespace mmfast::emulated

#define MMFAST_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)                       \
  [&](auto... arguments) {                                                                      \
    static_cast<void>(stream);                                                                  \
    ::mmfast::emulated::launch(blocks, threads, shared_bytes, [&] { (kernel)(arguments...); }); \
  }(__VA_ARGS__)
#define MMFAST_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::mmfast::emulated::dynamic_shared())

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  mmfast::emulated::wait_for_block(where);
}
inline void __syncwarp(std::source_location where = std::source_location::current()) {
  char all[32];
  mmfast::emulated::exchange('\0', all, "__syncwarp", where);
}
inline void __threadfence() {}
[[noreturn]] inline void __trap() { mmfast::emulated::stop(); }
