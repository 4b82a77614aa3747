// softplus and the logistic function of a vector from one exponential, without overflow or cancellation.
#pragma once
#include <cstdint>

#include "exp.h"

namespace mmfast {

// e <- ln(1 + e) for 0 <= e <= 1, as 2 artanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...), s = e / (2 + e) <= 1/3.
template <typename T>
MMFAST_INLINE void log1p_vector(typename Simd<T>::Vector& e) {
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 17;
  const typename Simd<T>::Vector s = e / (T(2) + e), square = s * s;
  typename Simd<T>::Vector sum = {};
  for (int k = kTerms; k >= 0; --k) sum = sum * square + T(2) / T(2 * k + 1);
  e = s * sum;
}

// z <- ln(1 + exp(z)), and sigmoid <- 1 / (1 + exp(-z)).
template <typename T>
MMFAST_INLINE void softplus_vector(typename Simd<T>::Vector& z, typename Simd<T>::Vector& sigmoid) {
  using Vector = typename Simd<T>::Vector;
  const Vector zero = {};
  Vector e = z < 0 ? z : -z;
  exp_vector<T>(e);
  sigmoid = (z < 0 ? e : zero + T(1)) / (T(1) + e);
  log1p_vector<T>(e);
  z = (z < 0 ? zero : z) + e;
}

}  // namespace mmfast
