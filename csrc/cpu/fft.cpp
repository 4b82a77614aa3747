// Plans of the fast Fourier transform, and the order in which they run the kernels.
#include "fft.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fft_kernels.h"

namespace mmfast {
namespace {

constexpr int64_t kLongestDirect = 512;  // two buffers of so many points stay in the first two caches

// Prime factors in ascending order; pairs of twos are fours.
std::vector<int64_t> factors_of(int64_t n) {
  std::vector<int64_t> factors;
  for (; n % 4 == 0; n /= 4) factors.push_back(4);
  for (int64_t p = 2; p * p <= n; ++p) {
    for (; n % p == 0; n /= p) factors.push_back(p);
  }
  if (n > 1) factors.push_back(n);
  return factors;
}

int64_t power(int64_t base, int64_t exponent, int64_t modulus) {
  int64_t result = 1;
  for (; exponent > 0; exponent /= 2, base = base * base % modulus) {
    if (exponent % 2) result = result * base % modulus;
  }
  return result;
}

int64_t primitive_root(int64_t prime) {
  const std::vector<int64_t> factors = factors_of(prime - 1);
  const auto is_root = [&](int64_t g) {
    return std::all_of(factors.begin(), factors.end(),
                       [&](int64_t f) { return power(g, (prime - 1) / (f == 4 ? 2 : f), prime) != 1; });
  };
  int64_t g = 2;
  while (!is_root(g)) ++g;
  return g;
}

bool smooth(int64_t n, int64_t largest) {
  const std::vector<int64_t> factors = factors_of(n);
  return factors.empty() || *std::max_element(factors.begin(), factors.end()) <= largest;
}

template <typename T>
void push(std::vector<T>& table, std::complex<double> value) {
  table.push_back(static_cast<T>(value.real()));
  table.push_back(static_cast<T>(value.imag()));
}

}  // namespace

std::complex<double> root_of_unity(int64_t k, int64_t n) {
  int64_t eighths = 8 * (k % n);  // of an n-th of a turn
  const bool below = eighths > 4 * n;
  if (below) eighths = 8 * n - eighths;
  const bool left = eighths > 2 * n;
  if (left) eighths = 4 * n - eighths;
  const bool steep = eighths > n;
  if (steep) eighths = 2 * n - eighths;
  const double angle = std::numbers::pi / 4 * static_cast<double>(eighths) / static_cast<double>(n);
  double c = std::cos(angle), s = std::sin(angle);
  if (steep) std::swap(c, s);
  return {left ? -c : c, below ? s : -s};
}

int64_t middle_divisor(int64_t n) {
  auto divisor = static_cast<int64_t>(std::sqrt(static_cast<double>(n)));
  while (n % divisor) --divisor;
  return divisor;
}

template <typename T>
Fft<T>::Fft(int64_t size) : size_(size), scratch_(size * kPoint) {
  const std::vector<int64_t> factors = factors_of(size);
  if (size <= kLongestDirect && smooth(size, kLargestRadix)) {
    plan_direct(factors);
  } else if (factors.size() == 1) {
    plan_rader();
  } else {
    plan_split();
  }
}

template <typename T>
void Fft<T>::plan_direct(const std::vector<int64_t>& factors) {
  int64_t left = size_, done = 1;
  for (const int64_t radix : factors) {
    FftPass<T> pass{radix, left / radix, done, {}, {}};
    for (int64_t j = 0; j < pass.left; ++j) {
      for (int64_t q = 1; q < radix; ++q) push(pass.twiddles, root_of_unity(j * q, left));
    }
    for (int64_t q = 1; radix % 2 && q <= radix / 2; ++q) {
      for (int64_t i = 1; i <= radix / 2; ++i) push(pass.dense, std::conj(root_of_unity(q * i, radix)));
    }
    passes_.push_back(std::move(pass));
    left /= radix;
    done *= radix;
  }
}

template <typename T>
void Fft<T>::plan_split() {
  const int64_t second = middle_divisor(size_), first = size_ / second;
  first_ = std::make_unique<Fft>(first);
  second_ = std::make_unique<Fft>(second);
  for (int64_t n = 0; n < second; ++n) {
    for (int64_t k = 0; k < first; ++k) push(twiddles_, root_of_unity(n * k, size_));
  }
  scratch_ += first * kPoint + std::max(first_->scratch(), second_->scratch());
}

template <typename T>
void Fft<T>::plan_rader() {
  const int64_t count = size_ - 1;
  int64_t length = count;
  if (!smooth(count, kLargestRadix)) {  // pad with zeros: a linear convolution, wrapped round
    for (length = 2 * count - 1; !smooth(length, 5);) ++length;
  }
  first_ = std::make_unique<Fft>(length);
  const int64_t g = primitive_root(size_);
  for (int64_t m = 0, at = 1; m < count; ++m, at = at * g % size_) from_.push_back(static_cast<int32_t>(at));
  to_ = from_;
  std::reverse(to_.begin() + 1, to_.end());  // g^-m = g^(count - m)
  // The kernel's transform, taken in float64 in the first lane.
  const Fft<double> exact(length);
  constexpr int64_t kStep = Fft<double>::kPoint, kLanes = Simd<double>::kLanes;
  std::vector<double> kernel(length * kStep), scratch(exact.scratch());
  const auto put = [&](int64_t at, int64_t m) {
    const std::complex<double> value = root_of_unity(to_[m], size_) / static_cast<double>(length);
    kernel[at * kStep] = value.real(), kernel[at * kStep + kLanes] = value.imag();
  };
  for (int64_t m = 0; m < count; ++m) put(m, m);
  for (int64_t m = 1; length > count && m < count; ++m) put(length - m, count - m);
  const double* result = exact.run(kernel.data(), scratch.data());
  for (int64_t k = 0; k < length; ++k) push(twiddles_, {result[k * kStep], result[k * kStep + kLanes]});
  scratch_ = 2 * first_->scratch();
}

template <typename T>
T* Fft<T>::run(T* data, T* scratch) const {
  if (!first_) return run_passes(passes_, data, scratch);
  return second_ ? run_split(data, scratch) : run_rader(data, scratch);
}

// n = second * n1 + n2 and k = k1 + first * k2.
template <typename T>
T* Fft<T>::run_split(T* data, T* scratch) const {
  const int64_t first = first_->size(), second = second_->size();
  T* points = scratch + size_ * kPoint;
  T* inner = points + first * kPoint;
  for (int64_t n2 = 0; n2 < second; ++n2) {
    move_points(data + n2 * kPoint, second, points, 1, first, nullptr);
    const T* result = first_->run(points, inner);
    move_points(result, 1, data + n2 * kPoint, second, first, twiddles_.data() + 2 * n2 * first);
  }
  for (int64_t k1 = 0; k1 < first; ++k1) {
    const T* result = second_->run(data + k1 * second * kPoint, inner);
    move_points(result, 1, scratch + k1 * kPoint, first, second, nullptr);
  }
  return scratch;
}

// X_{g^-q} = x_0 + sum_m x_{g^m} exp(-2 pi i g^(m - q) / size): a cyclic convolution over m.
template <typename T>
T* Fft<T>::run_rader(T* data, T* scratch) const {
  T* buffers[2] = {scratch, scratch + first_->scratch()};
  const int64_t count = size_ - 1, length = first_->size();
  gather_points(data, from_, buffers[0]);
  std::fill(buffers[0] + count * kPoint, buffers[0] + length * kPoint, T(0));
  T* spectrum = first_->run(buffers[0], buffers[1]);
  convolve(twiddles_, data, spectrum);
  const T* result = first_->run(spectrum, spectrum == buffers[0] ? buffers[1] : buffers[0]);
  scatter_swapped(result, to_, data);
  return data;
}

template class Fft<float>;
template class Fft<double>;

}  // namespace mmfast
