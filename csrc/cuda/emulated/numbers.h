// CUDA's number types and arithmetic for a C++20 compiler.
#pragma once
#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// 1 sign, 5 exponent, 10 fraction bits; rounds to nearest, ties to even.
struct __half {
  uint16_t bits;

  __half() = default;
  __half(float value) {
    const uint32_t all = std::bit_cast<uint32_t>(value), size = all & 0x7fffffffu;
    uint32_t half;
    if (size >= 0x47800000u) {  // 65536 and above, infinity, NaN
      half = size > 0x7f800000u ? 0x7fffu : 0x7c00u;
    } else if (size < 0x38800000u) {  // below 2^-14: an addition shifts the fraction into place and rounds it
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    } else {
      half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    }
    bits = static_cast<uint16_t>((all >> 31 << 15) | half);
  }
  operator float() const {
    const uint32_t exponent = (bits >> 10) & 31u, fraction = bits & 1023u;
    const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
    if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(fraction * 0x1p-24f));
    return std::bit_cast<float>(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (fraction << 13));
  }
};

// The upper half of a float; rounds to nearest, ties to even.
struct __nv_bfloat16 {
  uint16_t bits;

  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    const uint32_t all = std::bit_cast<uint32_t>(value);
    bits = static_cast<uint16_t>(value != value ? 0x7fffu : (all + 0x7fffu + ((all >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(a), static_cast<C>(b));
  return std::min(static_cast<C>(a), static_cast<C>(b));
}
template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(a), static_cast<C>(b));
  return std::max(static_cast<C>(a), static_cast<C>(b));
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}

// Integers only, as the order of float additions would show in the bits. Fibers never interrupt each other.
template <typename T>
concept MmfastAtomic = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;

template <MmfastAtomic T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  const T old = *p;
  return *p = value, old;
}
template <MmfastAtomic T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return atomicExch(p, static_cast<T>(*p + value));
}
template <MmfastAtomic T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return atomicExch(p, std::max(*p, value));
}
template <MmfastAtomic T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return atomicExch(p, std::min(*p, value));
}
