// The real FFT of the cosine transforms: splitting, rotating and mirroring round two complex FFTs.
#include "dct_plan.h"

#include <cmath>
#include <complex>
#include <map>
#include <mutex>

namespace mmfast {
namespace {

template <typename T>
using Vector = typename Simd<T>::Vector;

// What the kernels of one column pair or one row of the spectrum read and write.
template <typename T>
struct Part {
  const T* in;
  T* out;
  const T* table;  // twiddles of the column, or rotation of the row
  int64_t first;   // length of the first transform
  int64_t second;
  int64_t index;  // c or k1
};

// out[i] = the points (v[second i + c], v[second i + c + 1]): samples that are neighbours in the tile.
template <typename T>
MMFAST_INLINE void load_pair_of(const Part<T>& p, bool single) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  const T* in = p.in + p.index * kLanes;
  for (int64_t i = 0; i < p.first; ++i, in += p.second * kLanes) {
    T* out = p.out + 2 * i * kLanes;
    Simd<T>::at(out) = Simd<T>::at(in);
    if (single) {
      Simd<T>::at(out + kLanes) = Vector<T>{};
    } else {
      Simd<T>::at(out + kLanes) = Simd<T>::at(in + kLanes);
    }
  }
}

MMFAST_CLONES void load_pair(const Part<float>& p, bool single) { load_pair_of(p, single); }
MMFAST_CLONES void load_pair(const Part<double>& p, bool single) { load_pair_of(p, single); }

template <typename T>
MMFAST_INLINE void store_pair_of(const Part<T>& p, bool single) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  T* out = p.out + p.index * kLanes;
  for (int64_t i = 0; i < p.first; ++i, out += p.second * kLanes) {
    const T* in = p.in + 2 * i * kLanes;
    Simd<T>::at(out) = Simd<T>::at(in);
    if (!single) Simd<T>::at(out + kLanes) = Simd<T>::at(in + kLanes);
  }
}

MMFAST_CLONES void store_pair(const Part<float>& p, bool single) { store_pair_of(p, single); }
MMFAST_CLONES void store_pair(const Part<double>& p, bool single) { store_pair_of(p, single); }

// Multiplies the point (re, im) by c + i s into `out`.
template <typename T>
MMFAST_INLINE void put(const Vector<T>& re, const Vector<T>& im, T c, T s, T* out) {
  Simd<T>::at(out) = c * re - s * im;
  Simd<T>::at(out + Simd<T>::kLanes) = c * im + s * re;
}

// Twice the transforms of the two real columns c and c + 1 out of that of their pair, times the twiddles, to row k1,
// places c and c + 1 of the spectrum.
template <typename T>
MMFAST_INLINE void separate_of(const Part<T>& p, bool single) {
  constexpr int64_t kLanes = Simd<T>::kLanes, kPoint = 2 * kLanes;
  const int64_t half = p.first / 2 + 1;
  for (int64_t k = 0; k < half; ++k) {
    const T *a = p.in + k * kPoint, *b = p.in + (k ? p.first - k : 0) * kPoint;
    const Vector<T> a_re = Simd<T>::at(a), a_im = Simd<T>::at(a + kLanes);
    const Vector<T> b_re = Simd<T>::at(b), b_im = Simd<T>::at(b + kLanes);
    const T *w = p.table + 2 * k, *w_next = w + 2 * half;
    T* out = p.out + (k * p.second + p.index) * kPoint;
    put<T>(a_re + b_re, a_im - b_im, w[0], w[1], out);
    if (!single) put<T>(a_im + b_im, b_re - a_re, w_next[0], w_next[1], out + kPoint);
  }
}

MMFAST_CLONES void separate(const Part<float>& p, bool single) { separate_of(p, single); }
MMFAST_CLONES void separate(const Part<double>& p, bool single) { separate_of(p, single); }

// The other way: the pair's spectrum out of those of the columns (c + 1 as real part: the inverse transform works with
// real and imaginary parts exchanged), mirrors included. Rows that are their own mirror belong to real numbers.
template <typename T>
MMFAST_INLINE void combine_of(const Part<T>& p, bool single) {
  constexpr int64_t kLanes = Simd<T>::kLanes, kPoint = 2 * kLanes;
  const int64_t half = p.first / 2 + 1;
  for (int64_t k = 0; k < half; ++k) {
    const T *w = p.table + 2 * k, *w_next = w + 2 * half;
    const T* in = p.in + (k * p.second + p.index) * kPoint;
    const Vector<T> re = Simd<T>::at(in), im = Simd<T>::at(in + kLanes);
    const Vector<T> c_re = w[0] * re + w[1] * im, c_im = w[0] * im - w[1] * re;
    Vector<T> n_re = {}, n_im = {};
    if (!single) {
      const Vector<T> next_re = Simd<T>::at(in + kPoint), next_im = Simd<T>::at(in + kPoint + kLanes);
      n_re = w_next[0] * next_re + w_next[1] * next_im, n_im = w_next[0] * next_im - w_next[1] * next_re;
    }
    T *a = p.out + k * kPoint, *b = p.out + (p.first - k) * kPoint;
    if (k == 0 || 2 * k == p.first) {
      Simd<T>::at(a) = c_re, Simd<T>::at(a + kLanes) = n_re;
      continue;
    }
    Simd<T>::at(a) = c_re + n_im, Simd<T>::at(a + kLanes) = n_re - c_im;
    Simd<T>::at(b) = c_re - n_im, Simd<T>::at(b + kLanes) = n_re + c_im;
  }
}

MMFAST_CLONES void combine(const Part<float>& p, bool single) { combine_of(p, single); }
MMFAST_CLONES void combine(const Part<double>& p, bool single) { combine_of(p, single); }

// y_k and y_{N-k} of the row k1 of the spectrum.
template <typename T>
MMFAST_INLINE void rotate_of(const Part<T>& p, bool closed) {
  constexpr int64_t kLanes = Simd<T>::kLanes, kPoint = 2 * kLanes;
  const int64_t size = p.first * p.second;
  for (int64_t k2 = 0; k2 < p.second; ++k2) {
    const int64_t k = p.index + p.first * k2;
    const T c = p.table[2 * k2], s = p.table[2 * k2 + 1];
    const Vector<T> re = Simd<T>::at(p.in + k2 * kPoint), im = Simd<T>::at(p.in + k2 * kPoint + kLanes);
    Simd<T>::at(p.out + k * kLanes) = c * re + s * im;
    if (!closed) Simd<T>::at(p.out + (size - k) * kLanes) = s * re - c * im;
  }
  if (p.index == 0) Simd<T>::at(p.out) *= static_cast<T>(0.70710678118654752440);
}

MMFAST_CLONES void rotate(const Part<float>& p, bool closed) { rotate_of(p, closed); }
MMFAST_CLONES void rotate(const Part<double>& p, bool closed) { rotate_of(p, closed); }

// The row k1 of the spectrum out of y, real and imaginary parts exchanged.
template <typename T>
MMFAST_INLINE void rotate_back_of(const Part<T>& p) {
  constexpr int64_t kLanes = Simd<T>::kLanes, kPoint = 2 * kLanes;
  const int64_t size = p.first * p.second;
  for (int64_t k2 = 0; k2 < p.second; ++k2) {
    const int64_t k = p.index + p.first * k2;
    const T c = p.table[2 * k2], s = p.table[2 * k2 + 1];
    const Vector<T> y = Simd<T>::at(p.in + k * kLanes);
    const Vector<T> mirror = k ? Vector<T>(Simd<T>::at(p.in + (size - k) * kLanes)) : Vector<T>{};
    Simd<T>::at(p.out + k2 * kPoint) = s * y - c * mirror;
    Simd<T>::at(p.out + k2 * kPoint + kLanes) = c * y + s * mirror;
  }
  if (p.index == 0) Simd<T>::at(p.out + kLanes) *= static_cast<T>(1.41421356237309504880);
}

MMFAST_CLONES void rotate_back(const Part<float>& p) { rotate_back_of(p); }
MMFAST_CLONES void rotate_back(const Part<double>& p) { rotate_back_of(p); }

template <typename T>
MMFAST_INLINE void copy_swapped_of(const T* in, int64_t count, T* out) {
  constexpr int64_t kLanes = Simd<T>::kLanes;
  for (int64_t i = 0; i < count; ++i, in += 2 * kLanes, out += 2 * kLanes) {
    const Vector<T> re = Simd<T>::at(in);
    Simd<T>::at(out) = Simd<T>::at(in + kLanes);
    Simd<T>::at(out + kLanes) = re;
  }
}

MMFAST_CLONES void copy_swapped(const float* in, int64_t count, float* out) { copy_swapped_of(in, count, out); }
MMFAST_CLONES void copy_swapped(const double* in, int64_t count, double* out) { copy_swapped_of(in, count, out); }

}  // namespace

template <typename T>
DctPlan<T>::DctPlan(int64_t size) : size_(size), first_(size / middle_divisor(size)), second_(middle_divisor(size)) {
  const int64_t first = first_.size(), second = second_.size();
  for (int64_t c = 0; c < second; ++c) {
    for (int64_t k1 = 0; k1 < half(); ++k1) {
      const std::complex<double> w = root_of_unity(c * k1, size);
      twiddles_.push_back(static_cast<T>(w.real()));
      twiddles_.push_back(static_cast<T>(w.imag()));
    }
  }
  const double scale = std::sqrt(0.5 / static_cast<double>(size));
  for (int64_t k1 = 0; k1 < half(); ++k1) {
    for (int64_t k2 = 0; k2 < second; ++k2) {
      const std::complex<double> w = root_of_unity(k1 + first * k2, 4 * size);
      rotation_.push_back(static_cast<T>(scale * w.real()));
      rotation_.push_back(static_cast<T>(scale * -w.imag()));
    }
  }
}

template <typename T>
int64_t DctPlan<T>::work() const {
  const int64_t spectrum = half() * second_.size() * 2 * kLanes, points = first_.size() * 2 * kLanes;
  return spectrum + points + std::max(first_.scratch(), second_.scratch());
}

template <typename T>
void DctPlan<T>::forward(T* tile, T* work) const {
  const int64_t first = first_.size(), second = second_.size();
  T* spectrum = work;
  T* points = spectrum + half() * second * 2 * kLanes;
  T* scratch = points + first * 2 * kLanes;
  for (int64_t c = 0; c < second; c += 2) {
    const bool single = c + 1 == second;
    load_pair(Part<T>{tile, points, nullptr, first, second, c}, single);
    const T* result = first_.run(points, scratch);
    separate(Part<T>{result, spectrum, twiddles_.data() + 2 * c * half(), first, second, c}, single);
  }
  for (int64_t k1 = 0; k1 < half(); ++k1) {
    const T* result = second_.run(spectrum + k1 * second * 2 * kLanes, scratch);
    rotate(Part<T>{result, tile, rotation_.data() + 2 * k1 * second, first, second, k1}, closed(k1));
  }
}

template <typename T>
void DctPlan<T>::inverse(T* tile, T* work) const {
  const int64_t first = first_.size(), second = second_.size();
  T* spectrum = work;
  T* points = spectrum + half() * second * 2 * kLanes;
  T* scratch = points + first * 2 * kLanes;
  for (int64_t k1 = 0; k1 < half(); ++k1) {
    T* row = spectrum + k1 * second * 2 * kLanes;
    rotate_back(Part<T>{tile, points, rotation_.data() + 2 * k1 * second, first, second, k1});
    copy_swapped(second_.run(points, scratch), second, row);
  }
  for (int64_t c = 0; c < second; c += 2) {
    const bool single = c + 1 == second;
    combine(Part<T>{spectrum, points, twiddles_.data() + 2 * c * half(), first, second, c}, single);
    store_pair(Part<T>{first_.run(points, scratch), tile, nullptr, first, second, c}, single);
  }
}

template <typename T>
std::shared_ptr<const DctPlan<T>> dct_plan(int64_t size) {
  constexpr size_t kKept = 16;  // lengths in use at one time are few; each holds about four tables of its length
  static std::mutex mutex;
  static std::map<int64_t, std::shared_ptr<const DctPlan<T>>> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = plans.find(size);
  if (found == plans.end()) {
    if (plans.size() == kKept) plans.clear();
    found = plans.emplace(size, std::make_shared<const DctPlan<T>>(size)).first;
  }
  return found->second;
}

template class DctPlan<float>;
template class DctPlan<double>;
template std::shared_ptr<const DctPlan<float>> dct_plan<float>(int64_t);
template std::shared_ptr<const DctPlan<double>> dct_plan<double>(int64_t);

}  // namespace mmfast
