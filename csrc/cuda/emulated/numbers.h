// CUDA's number types and arithmetic for a C++20 compiler.
#pragma once
#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#define MMFAST_VECTOR2(name, T, bytes) \
  struct alignas(bytes) name {         \
    T x, y;                            \
  };                                   \
  inline name make_##name(T x, T y) { return {x, y}; }
#define MMFAST_VECTOR4(name, T, bytes) \
  struct alignas(bytes) name {         \
    T x, y, z, w;                      \
  };                                   \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
MMFAST_VECTOR2(float2, float, 8)
MMFAST_VECTOR2(double2, double, 16)
MMFAST_VECTOR2(int2, int, 8)
MMFAST_VECTOR2(uint2, unsigned, 8)
MMFAST_VECTOR4(float4, float, 16)
MMFAST_VECTOR4(int4, int, 16)
MMFAST_VECTOR4(uint4, unsigned, 16)
#undef MMFAST_VECTOR2
#undef MMFAST_VECTOR4

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

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }

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

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __clzll(unsigned long long x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline int __ffsll(unsigned long long x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
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
template <MmfastAtomic T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return atomicExch(p, static_cast<T>(*p | value));
}
template <MmfastAtomic T>
T atomicAnd(T* p, std::type_identity_t<T> value) {
  return atomicExch(p, static_cast<T>(*p & value));
}
template <MmfastAtomic T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return *p == expected ? atomicExch(p, value) : *p;
}
