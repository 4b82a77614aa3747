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
typedef uint32_t Bits32 __attribute__((vector_size(32)));
typedef uint16_t Bits16 __attribute__((vector_size(16)));
typedef uint16_t UnalignedBits16 __attribute__((vector_size(16), aligned(2), may_alias));

MMFAST_INLINE void load(const float* p, Floats& v) { v = Simd<float>::at(p); }
MMFAST_INLINE void load(const double* p, Doubles& v) { v = Simd<double>::at(p); }
MMFAST_INLINE void store(float* p, const Floats& v) { Simd<float>::at(p) = v; }
MMFAST_INLINE void store(double* p, const Doubles& v) { Simd<double>::at(p) = v; }

MMFAST_INLINE void load(const c10::BFloat16* p, Floats& v) {
  const Bits32 bits = __builtin_convertvector(*reinterpret_cast<const UnalignedBits16*>(p), Bits32) << 16;
  v = (Floats)bits;
}

// To the nearest, ties to even; a NaN stays one.
MMFAST_INLINE void store(c10::BFloat16* p, const Floats& v) {
  const Bits32 bits = (Bits32)v;
  const Bits32 nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits32 rounded = (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : nearest;
  *reinterpret_cast<UnalignedBits16*>(p) = __builtin_convertvector(rounded, Bits16);
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

// A store that leaves the caches alone, for tables too large to stay in them; p is aligned to 16 bytes. Where there is
// no such store, a plain one.
template <typename T>
MMFAST_INLINE void stream(T* p, const typename Simd<Sum<T>>::Vector& v) {
#if defined(__SSE2__)
  T narrow[Simd<Sum<T>>::kLanes];
  store(narrow, v);
  const __m128i* from = reinterpret_cast<const __m128i*>(narrow);
  __m128i* to = reinterpret_cast<__m128i*>(p);
  for (unsigned i = 0; i < sizeof(narrow) / 16; ++i) _mm_stream_si128(to + i, _mm_loadu_si128(from + i));
#else
  store(p, v);
#endif
}

}  // namespace
}  // namespace mmfast
