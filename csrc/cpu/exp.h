// The exponential of numbers that are zero or less, a vector at a time: the weights of every softmax of the losses.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "simd.h"

namespace mmfast {

template <typename T>
struct ExpFacts;

// exp(x) = 2^n (1 + r + r^2 q(r)), |r| <= ln 2 / 2, ln 2 = kHigh + kLow; q is the Chebyshev fit, highest power first.
template <>
struct ExpFacts<float> {
  typedef int32_t Bits __attribute__((vector_size(32)));
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 12582912.0f, kLowest = -87.3f;  // below, the result would leave the normal numbers
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  static constexpr float kPoly[] = {1.39262508e-3f, 8.36323288e-3f, 4.16665542e-2f, 1.66665767e-1f, 0.5f};
};

template <>
struct ExpFacts<double> {
  typedef int64_t Bits __attribute__((vector_size(32)));
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 6755399441055744.0, kLowest = -708.3;
  static constexpr double kHigh = 6.93145751953125e-1, kLow = 1.42860682030941723212e-6;
  static constexpr double kPoly[] = {2.5100472505694996e-8,  2.76202015910315488e-7, 2.75572682769056962e-6,
                                     2.48015210578682052e-5, 1.98412698631715560e-4, 1.38888889173670806e-3,
                                     8.33333333333003820e-3, 4.16666666666238205e-2, 1.66666666666666675e-1,
                                     5.00000000000000103e-1};
};

// x <- exp(x) for x <= 0, within 2 units in the last place; 0 below kLowest, NaN stays NaN.
template <typename T>
MMFAST_INLINE void exp_vector(typename Simd<T>::Vector& x) {
  using Facts = ExpFacts<T>;
  using Vector = typename Simd<T>::Vector;
  using Bits = typename Facts::Bits;
  const Vector shifted = x * T(1.442695040888963407360) + Facts::kRound;  // its low bits hold n
  const Vector n = shifted - Facts::kRound;
  const Vector r = (x - n * Facts::kHigh) - n * Facts::kLow;
  Vector q = {};
  for (const T c : Facts::kPoly) q = q * r + c;
  const Bits exponent = (reinterpret_cast<Bits>(shifted) + Facts::kBias) << Facts::kMantissa;
  const Vector result = (q * (r * r) + r + T(1)) * reinterpret_cast<Vector>(exponent);
  x = x < Facts::kLowest ? Vector{} : result;
}

// The largest of `start` and the numbers of x; NaN may be passed over.
template <typename T>
MMFAST_INLINE T max_row(const T* x, int64_t count, T start) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector best = typename Simd<T>::Vector{} + start;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const typename Simd<T>::Vector numbers = Simd<T>::at(x + i);
    best = numbers > best ? numbers : best;
  }
  for (int lane = 0; lane < kLanes; ++lane) start = std::max(start, best[lane]);
  for (; i < count; ++i) start = std::max(start, x[i]);
  return start;
}

// x <- exp(x - shift) and its sum; the numbers past the last whole vector are padded, so all take the same path.
template <typename T>
MMFAST_INLINE T exp_row(T* x, int64_t count, T shift) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    typename Simd<T>::Vector e = Simd<T>::at(x + i) - shift;
    exp_vector<T>(e);
    Simd<T>::at(x + i) = e;
    sum += e;
  }
  if (i < count) {
    T rest[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      rest[lane] = i + lane < count ? x[i + lane] - shift : -std::numeric_limits<T>::infinity();
    }
    typename Simd<T>::Vector e = Simd<T>::at(rest);
    exp_vector<T>(e);
    sum += e;
    Simd<T>::at(rest) = e;
    std::copy_n(rest, count - i, x + i);
  }
  T total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

void exp_in_place(float* x, int64_t count);
void exp_in_place(double* x, int64_t count);

}  // namespace mmfast
