// Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator, so a number depends on (key, counter) alone and
// never on the order or number of threads. The same code serves CPU and CUDA.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define MMFAST_HOST_DEVICE __host__ __device__
#else
#define MMFAST_HOST_DEVICE
#endif

namespace mmfast {

struct Philox4 {
  uint32_t word[4];
};

// Four uniform 32-bit words for one 64-bit key and one 128-bit counter.
MMFAST_HOST_DEVICE inline Philox4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox4{{c0, c1, c2, c3}};
}

// Uniform integer in [0, size) from one 32-bit word, size < 2^32 (multiply-shift; bias below size / 2^32).
MMFAST_HOST_DEVICE inline uint32_t below(uint32_t word, uint32_t size) {
  return static_cast<uint32_t>((static_cast<uint64_t>(word) * size) >> 32);
}

}  // namespace mmfast
