// Rows as vectors of the type they are summed in: float64, float32, and bfloat16 and float16 summed in float32.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

#include "graph.h"
#include "simd.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mmfast {
namespace {  // every file compiles its own copies, for the instructions that it may use

using Floats = Simd<float>::Vector;
using Doubles = Simd<double>::Vector;
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint32_t UnalignedBits __attribute__((vector_size(32), aligned(2), may_alias));

MMFAST_INLINE void load(const float* p, Floats& v) { v = Simd<float>::at(p); }
MMFAST_INLINE void load(const double* p, Doubles& v) { v = Simd<double>::at(p); }
MMFAST_INLINE void store(float* p, const Floats& v) { Simd<float>::at(p) = v; }
MMFAST_INLINE void store(double* p, const Doubles& v) { Simd<double>::at(p) = v; }

MMFAST_INLINE void load(const c10::BFloat16* p, Floats& v) {
  for (int i = 0; i < Simd<float>::kLanes; ++i) v[i] = p[i];
}

MMFAST_INLINE void store(c10::BFloat16* p, const Floats& v) {
  for (int i = 0; i < Simd<float>::kLanes; ++i) p[i] = v[i];
}

#if defined(MMFAST_F16C)  // set by a file that is compiled for it; __F16C__ does not follow pragmas everywhere
MMFAST_INLINE void load(const c10::Half* p, Floats& v) {
  v = (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

MMFAST_INLINE void store(c10::Half* p, const Floats& v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
MMFAST_INLINE void load(const c10::Half* p, Floats& v) {
  for (int i = 0; i < Simd<float>::kLanes; ++i) v[i] = p[i];
}

MMFAST_INLINE void store(c10::Half* p, const Floats& v) {
  for (int i = 0; i < Simd<float>::kLanes; ++i) p[i] = v[i];
}
#endif

// Two vectors at a time. Those of bfloat16 come as the even and the odd elements of 32 bytes, which costs a shift and a
// mask where putting them in order would cost shuffles: sums keep that order until they are stored.
template <typename T>
MMFAST_INLINE void load2(const T* p, typename Simd<Sum<T>>::Vector& a, typename Simd<Sum<T>>::Vector& b) {
  load(p, a);
  load(p + Simd<Sum<T>>::kLanes, b);
}

MMFAST_INLINE void load2(const c10::BFloat16* p, Floats& a, Floats& b) {
  const Bits bits = *reinterpret_cast<const UnalignedBits*>(p);
  a = (Floats)(bits << 16);
  b = (Floats)(bits & 0xffff0000);
}

// The inverse of load2<In>, for tables of In and of the type that it is summed in.
template <typename In, typename Out>
struct Store2 {
  static MMFAST_INLINE void run(Out* p, const typename Simd<Sum<In>>::Vector& a,
                                const typename Simd<Sum<In>>::Vector& b) {
    store(p, a);
    store(p + Simd<Sum<In>>::kLanes, b);
  }
};

// To the nearest, ties to even; a NaN stays one. The result is in the upper half of each element.
MMFAST_INLINE void round_to_bfloat16(const Floats& v, Bits& rounded) {
  const Bits bits = (Bits)v;
  rounded = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
}

template <>
struct Store2<c10::BFloat16, c10::BFloat16> {
  static MMFAST_INLINE void run(c10::BFloat16* p, const Floats& a, const Floats& b) {
    Bits even, odd;
    round_to_bfloat16(a, even);
    round_to_bfloat16(b, odd);
    *reinterpret_cast<UnalignedBits*>(p) = (even >> 16) | (odd & 0xffff0000);
  }
};

template <>
struct Store2<c10::BFloat16, float> {
  static MMFAST_INLINE void run(float* p, const Floats& a, const Floats& b) {
    store(p, __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11));
    store(p + 8, __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
  }
};

// Copies 16 * kCount bytes past the caches; `to` is aligned to 16 bytes. A plain copy where there is no such store.
template <int kCount>
MMFAST_INLINE void stream(void* to, const void* from) {
#if defined(__SSE2__)
  for (int i = 0; i < kCount; ++i) {
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
  }
#else
  __builtin_memcpy(to, from, 16 * kCount);
#endif
}

// Orders streamed stores before whatever tells other threads of them.
MMFAST_INLINE void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace mmfast
