// Fast Fourier transforms of any length, of as many sequences side by side as a vector has lanes.
#pragma once
#include <complex>
#include <cstdint>
#include <memory>
#include <vector>

#include "fft_kernels.h"
#include "simd.h"

namespace mmfast {

// exp(-2 pi i k / n) in float64; the angle is reduced to an eighth of a turn in integers first.
std::complex<double> root_of_unity(int64_t k, int64_t n);

// The largest divisor of n that is at most sqrt(n).
int64_t middle_divisor(int64_t n);

// X_k = sum_n x_n exp(-2 pi i k n / size). A point holds one x_n (or X_k) of every sequence: kLanes real parts, then
// kLanes imaginary parts. Short smooth lengths run directly (Stockham), primes as a cyclic convolution (Rader), other
// lengths as two shorter ones (Cooley and Tukey). The inverse is the same with real and imaginary parts exchanged.
template <typename T>
class Fft {
 public:
  static constexpr int64_t kPoint = 2 * Simd<T>::kLanes;

  explicit Fft(int64_t size);

  int64_t size() const { return size_; }
  // Numbers that `scratch` must hold; never fewer than the points themselves.
  int64_t scratch() const { return scratch_; }
  // Transforms `data`, overwriting both; returns where the result lies: `data` or `scratch`.
  T* run(T* data, T* scratch) const;

 private:
  void plan_direct(const std::vector<int64_t>& factors);
  void plan_split();
  void plan_rader();
  T* run_split(T* data, T* scratch) const;
  T* run_rader(T* data, T* scratch) const;

  int64_t size_, scratch_;
  std::vector<FftPass<T>> passes_;             // direct
  std::unique_ptr<const Fft> first_, second_;  // split: size = first * second; Rader: `first` is the convolution's
  std::vector<T> twiddles_;                    // split: [second, first, 2]; Rader: transform of the kernel
  std::vector<int32_t> from_, to_;             // Rader: g^m and g^-m modulo the size
};

}  // namespace mmfast
