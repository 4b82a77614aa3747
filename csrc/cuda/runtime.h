// All that a .cu file includes of CUDA: NVIDIA's runtime, or with -DMMFAST_EMULATED a stand-in that runs the same text
// on the CPU. README.md beside this holds the conventions.
#pragma once
#include <algorithm>
#include <cstdint>

#ifdef MMFAST_EMULATED
#include "emulated/emulated.h"
#include "emulated/warp.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#ifdef __CUDACC__
#include "warp.h"

// Starts `kernel` (in parentheses where its name holds a comma) on 1-D blocks.
#define MMFAST_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)                                    \
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), \
           stream>>>(__VA_ARGS__)
// The shared memory that the launch asked for, as an array of T.
#define MMFAST_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char mmfast_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(mmfast_dynamic_shared)
#endif

namespace mmfast {

constexpr int kWarp = 32;
using Half = __half;
using BFloat16 = __nv_bfloat16;

#ifdef MMFAST_EMULATED
constexpr int64_t kMaxBlocks = 61;  // few, so that tests meet the second round of every grid-stride loop
#else
constexpr int64_t kMaxBlocks = int64_t{1} << 20;
#endif

// Blocks of a grid-stride kernel for `work` pieces, `per_block` of them a round. At least one: a grid of none is an
// error of CUDA.
inline int64_t blocks_for(int64_t work, int64_t per_block) {
  return std::max<int64_t>(1, std::min((work + per_block - 1) / per_block, kMaxBlocks));
}

}  // namespace mmfast
