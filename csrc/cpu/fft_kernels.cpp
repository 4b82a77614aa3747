// Kernels of the fast Fourier transform.
#include "fft_kernels.h"

#include <cstddef>
#include <utility>

#include "simd.h"

namespace mmfast {
namespace {

template <typename T>
constexpr int64_t kPoint = 2 * Simd<T>::kLanes;  // numbers of a point

template <typename T>
using Vector = typename Simd<T>::Vector;

// Sums and differences of x_i and x_{radix - i}, then cosines of the sums and sines of the differences.
template <typename T, int R>
MMFAST_INLINE void odd_butterfly(int64_t radix, const T* dense, Vector<T>* re, Vector<T>* im) {
  constexpr int kMost = (R ? R : kLargestRadix) / 2;
  const int64_t half = (R ? R : radix) / 2;
  Vector<T> sum_re[kMost], sum_im[kMost], diff_re[kMost], diff_im[kMost];
  const Vector<T> re0 = re[0], im0 = im[0];
  for (int64_t i = 0; i < half; ++i) {
    const int64_t a = i + 1, b = 2 * half - i;
    sum_re[i] = re[a] + re[b], sum_im[i] = im[a] + im[b];
    diff_re[i] = re[a] - re[b], diff_im[i] = im[a] - im[b];
    re[0] += sum_re[i], im[0] += sum_im[i];
  }
  for (int64_t q = 0; q < half; ++q) {
    Vector<T> even_re = re0, even_im = im0, odd_re = {}, odd_im = {};
    for (int64_t i = 0; i < half; ++i) {
      const T c = dense[2 * (q * half + i)], s = dense[2 * (q * half + i) + 1];
      even_re += c * sum_re[i], even_im += c * sum_im[i];
      odd_re += s * diff_im[i], odd_im -= s * diff_re[i];
    }
    re[q + 1] = even_re + odd_re, im[q + 1] = even_im + odd_im;
    re[2 * half - q] = even_re - odd_re, im[2 * half - q] = even_im - odd_im;
  }
}

// Transforms R points in place; R = 0: `radix` points, an odd number.
template <typename T, int R>
MMFAST_INLINE void butterfly(int64_t radix, const T* dense, Vector<T>* re, Vector<T>* im) {
  if constexpr (R == 2) {
    const Vector<T> r = re[0] - re[1], i = im[0] - im[1];
    re[0] += re[1], im[0] += im[1];
    re[1] = r, im[1] = i;
  } else if constexpr (R == 4) {
    const Vector<T> r02 = re[0] + re[2], i02 = im[0] + im[2], r20 = re[0] - re[2], i20 = im[0] - im[2];
    const Vector<T> r13 = re[1] + re[3], i13 = im[1] + im[3], r31 = re[1] - re[3], i31 = im[1] - im[3];
    re[0] = r02 + r13, im[0] = i02 + i13;
    re[1] = r20 + i31, im[1] = i20 - r31;
    re[2] = r02 - r13, im[2] = i02 - i13;
    re[3] = r20 - i31, im[3] = i20 + r31;
  } else {
    odd_butterfly<T, R>(radix, dense, re, im);
  }
}

// One pass of Stockham's transform: butterflies of points that lie left * done apart, results side by side.
template <typename T, int R>
MMFAST_INLINE void pass_of(const FftPass<T>& pass, const T* __restrict x, T* __restrict y) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  const int64_t radix = R ? R : pass.radix, step = pass.left * pass.done * kPoint<T>;
  for (int64_t j = 0; j < pass.left; ++j) {
    const T* w = pass.twiddles.data() + 2 * (radix - 1) * j;
    for (int64_t k = 0; k < pass.done; ++k) {
      Vector<T> re[R ? R : kLargestRadix], im[R ? R : kLargestRadix];
      const T* in = x + (j * pass.done + k) * kPoint<T>;
      re[0] = Simd<T>::at(in), im[0] = Simd<T>::at(in + kLanes);
      for (int64_t i = 1; i < radix; ++i) {
        re[i] = Simd<T>::at(in + i * step);
        im[i] = Simd<T>::at(in + i * step + kLanes);
      }
      butterfly<T, R>(radix, pass.dense.data(), re, im);
      T* out = y + (j * radix * pass.done + k) * kPoint<T>;
      Simd<T>::at(out) = re[0], Simd<T>::at(out + kLanes) = im[0];
      for (int64_t q = 1; q < radix; ++q) {
        const T c = w[2 * q - 2], s = w[2 * q - 1];
        T* point = out + q * pass.done * kPoint<T>;
        Simd<T>::at(point) = c * re[q] - s * im[q];
        Simd<T>::at(point + kLanes) = c * im[q] + s * re[q];
      }
    }
  }
}

template <typename T>
MMFAST_INLINE T* passes_of(const std::vector<FftPass<T>>& passes, T* data, T* scratch) {
  for (const auto& pass : passes) {
    switch (pass.radix) {
      case 2:
        pass_of<T, 2>(pass, data, scratch);
        break;
      case 3:
        pass_of<T, 3>(pass, data, scratch);
        break;
      case 4:
        pass_of<T, 4>(pass, data, scratch);
        break;
      case 5:
        pass_of<T, 5>(pass, data, scratch);
        break;
      default:
        pass_of<T, 0>(pass, data, scratch);
    }
    std::swap(data, scratch);
  }
  return data;
}

template <typename T>
MMFAST_INLINE void copy_point(const T* from, T* to) {
  constexpr int kLanes = Simd<T>::kLanes;
  Simd<T>::at(to) = Simd<T>::at(from);
  Simd<T>::at(to + kLanes) = Simd<T>::at(from + kLanes);
}

template <typename T>
MMFAST_INLINE void move_of(const T* from, int64_t from_step, T* to, int64_t to_step, int64_t count, const T* w) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  for (int64_t i = 0; i < count; ++i, from += from_step * kPoint<T>, to += to_step * kPoint<T>) {
    if (!w) {
      copy_point(from, to);
      continue;
    }
    const Vector<T> re = Simd<T>::at(from), im = Simd<T>::at(from + kLanes);
    Simd<T>::at(to) = w[2 * i] * re - w[2 * i + 1] * im;
    Simd<T>::at(to + kLanes) = w[2 * i] * im + w[2 * i + 1] * re;
  }
}

template <typename T>
MMFAST_INLINE void gather_of(const T* from, const std::vector<int32_t>& index, T* to) {
  for (const int64_t i : index) copy_point(from + i * kPoint<T>, to), to += kPoint<T>;
}

template <typename T>
MMFAST_INLINE void scatter_of(const T* from, const std::vector<int32_t>& index, T* to) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  for (const int64_t i : index) {
    Simd<T>::at(to + i * kPoint<T>) = Simd<T>::at(from + kLanes);
    Simd<T>::at(to + i * kPoint<T> + kLanes) = Simd<T>::at(from);
    from += kPoint<T>;
  }
}

template <typename T>
MMFAST_INLINE void convolve_of(const std::vector<T>& kernel, T* first, T* data) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  const Vector<T> x_re = Simd<T>::at(first), x_im = Simd<T>::at(first + kLanes);
  Simd<T>::at(first) += Simd<T>::at(data);
  Simd<T>::at(first + kLanes) += Simd<T>::at(data + kLanes);
  for (std::size_t i = 0; 2 * i < kernel.size(); ++i) {
    const T c = kernel[2 * i], s = kernel[2 * i + 1];
    T* point = data + i * kPoint<T>;
    const Vector<T> re = Simd<T>::at(point), im = Simd<T>::at(point + kLanes);
    Simd<T>::at(point) = c * im + s * re;
    Simd<T>::at(point + kLanes) = c * re - s * im;
  }
  Simd<T>::at(data) += x_im;
  Simd<T>::at(data + kLanes) += x_re;
}

}  // namespace

MMFAST_CLONES float* run_passes(const std::vector<FftPass<float>>& passes, float* data, float* scratch) {
  return passes_of<float>(passes, data, scratch);
}

MMFAST_CLONES double* run_passes(const std::vector<FftPass<double>>& passes, double* data, double* scratch) {
  return passes_of<double>(passes, data, scratch);
}

MMFAST_CLONES void move_points(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t count,
                               const float* w) {
  move_of(from, from_step, to, to_step, count, w);
}

MMFAST_CLONES void move_points(const double* from, int64_t from_step, double* to, int64_t to_step, int64_t count,
                               const double* w) {
  move_of(from, from_step, to, to_step, count, w);
}

MMFAST_CLONES void gather_points(const float* from, const std::vector<int32_t>& index, float* to) {
  gather_of(from, index, to);
}

MMFAST_CLONES void gather_points(const double* from, const std::vector<int32_t>& index, double* to) {
  gather_of(from, index, to);
}

MMFAST_CLONES void scatter_swapped(const float* from, const std::vector<int32_t>& index, float* to) {
  scatter_of(from, index, to);
}

MMFAST_CLONES void scatter_swapped(const double* from, const std::vector<int32_t>& index, double* to) {
  scatter_of(from, index, to);
}

MMFAST_CLONES void convolve(const std::vector<float>& kernel, float* first, float* data) {
  convolve_of(kernel, first, data);
}

MMFAST_CLONES void convolve(const std::vector<double>& kernel, double* first, double* data) {
  convolve_of(kernel, first, data);
}

}  // namespace mmfast
