// E neighbouring numbers of a row, moved as one access of 16 bytes where E numbers fill it, and one by one otherwise.
#pragma once
#include "product.h"

namespace mmfast {

// Raw numbers in flight: loaded first, made into sums later, so that several loads run at once.
template <typename T, int E>
struct Pack {
  static_assert(E == 1 || E * sizeof(T) == 16, "a pack is one number or 16 bytes");
  alignas(E * sizeof(T)) unsigned char bytes[E * sizeof(T)];

  __device__ __forceinline__ void load(const T* p) {
    if constexpr (E * sizeof(T) == 16) {
      const uint4 raw = __ldg(reinterpret_cast<const uint4*>(p));
      memcpy(bytes, &raw, 16);
    } else {
      memcpy(bytes, p, sizeof(T));
    }
  }

  __device__ __forceinline__ Sum<T> operator[](int i) const {
    T x;
    memcpy(&x, bytes + i * sizeof(T), sizeof(T));
    return static_cast<Sum<T>>(x);
  }
};

// Rounds E sums and writes them to p, 16 bytes at a time where they fill that.
template <typename Out, int E, typename T>
__device__ __forceinline__ void store(Out* p, const T (&x)[E]) {
  if constexpr (E * sizeof(Out) % 16 == 0) {
    alignas(16) Out narrow[E];
#pragma unroll
    for (int i = 0; i < E; ++i) narrow[i] = static_cast<Out>(x[i]);
    uint4 raw[E * sizeof(Out) / 16];
    memcpy(raw, narrow, sizeof(raw));
#pragma unroll
    for (unsigned i = 0; i < sizeof(raw) / 16; ++i) reinterpret_cast<uint4*>(p)[i] = raw[i];
  } else {
#pragma unroll
    for (int i = 0; i < E; ++i) p[i] = static_cast<Out>(x[i]);
  }
}

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace mmfast
