// The loops of the fast Fourier transform over points (fft.h), compiled once per x86 level.
#pragma once
#include <cstdint>
#include <vector>

namespace mmfast {

constexpr int64_t kLargestRadix = 31;  // longer primes are faster as a convolution

// One pass of Stockham's transform.
template <typename T>
struct FftPass {
  int64_t radix, left, done;  // butterflies of `radix` points; left * radix * done = size
  std::vector<T> twiddles;    // [left, radix - 1, 2]
  std::vector<T> dense;       // odd radix: cos and sin of 2 pi q i / radix, [q - 1, i - 1, 2], q, i <= radix / 2
};

// Runs the passes between two buffers, the input in `data`; returns the one with the result.
float* run_passes(const std::vector<FftPass<float>>& passes, float* data, float* scratch);
double* run_passes(const std::vector<FftPass<double>>& passes, double* data, double* scratch);

// to[i * to_step] = from[i * from_step] * w[i], steps in points; a null w stands for ones.
void move_points(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t count, const float* w);
void move_points(const double* from, int64_t from_step, double* to, int64_t to_step, int64_t count, const double* w);

// to[i] = from[index[i]].
void gather_points(const float* from, const std::vector<int32_t>& index, float* to);
void gather_points(const double* from, const std::vector<int32_t>& index, double* to);

// to[index[i]] = from[i], real and imaginary parts exchanged.
void scatter_swapped(const float* from, const std::vector<int32_t>& index, float* to);
void scatter_swapped(const double* from, const std::vector<int32_t>& index, double* to);

// The middle of Rader's transform. first: x_0, becomes X_0. data: the transform of the other x, becomes its product
// with the kernel's transform, plus x_0 in each later result, real and imaginary parts exchanged.
void convolve(const std::vector<float>& kernel, float* first, float* data);
void convolve(const std::vector<double>& kernel, double* first, double* data);

}  // namespace mmfast
