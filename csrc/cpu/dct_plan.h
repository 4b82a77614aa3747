// Orthonormal DCT-II and DCT-III of one length, of as many sequences side by side as a vector has lanes.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "fft.h"
#include "simd.h"

namespace mmfast {

// By Makhoul's reordering v (even samples forwards, then odd samples backwards) and a real FFT V of it:
//   y_k = scale_k Re(w_k V_k), y_{N-k} = -scale_k Im(w_k V_k), w_k = exp(-pi i k / 2N).
// The real FFT is N = first * second: transforms of length `first` over every second-th sample, two such columns of one
// sequence as one complex column, then transforms of length `second` for the half of the spectrum that is not a mirror.
template <typename T>
class DctPlan {
 public:
  static constexpr int64_t kLanes = Simd<T>::kLanes;

  explicit DctPlan(int64_t size);

  // Numbers that `work` of forward and inverse must hold.
  int64_t work() const;

  // tile [N, kLanes]: v of every lane, becomes y.
  void forward(T* tile, T* work) const;
  // tile [N, kLanes]: y of every lane, becomes v.
  void inverse(T* tile, T* work) const;

 private:
  int64_t half() const { return first_.size() / 2 + 1; }
  // Whether the row k1 of the spectrum is its own mirror.
  bool closed(int64_t k1) const { return k1 == 0 || 2 * k1 == first_.size(); }

  int64_t size_;
  Fft<T> first_, second_;
  std::vector<T> twiddles_;  // exp(-2 pi i c k1 / N): [second, half, 2]
  std::vector<T> rotation_;  // sqrt(1 / 2N) (cos, sin)(pi k / 2N), k = k1 + first k2: [half, second, 2]
};

// The plan of a length; the tables of recent lengths are kept.
template <typename T>
std::shared_ptr<const DctPlan<T>> dct_plan(int64_t size);

}  // namespace mmfast
