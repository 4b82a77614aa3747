// A step of Adam on one number, as the kernels of every device make it.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "philox.h"

namespace mmfast {

constexpr int64_t kMostSteps = std::numeric_limits<int32_t>::max();  // what the steps of rows are kept in

struct AdamSettings {
  double lr, beta1, beta2, eps;
};

// What step number `step`, from 1, has in common for all numbers of a table.
template <typename T>
struct AdamStep {
  T beta2, rest1, rest2;  // rest = 1 - beta, rounded once: 1 - 0.999f is wrong in the fifth digit
  T eps;
  T size;        // lr / (1 - beta1^step)
  T correction;  // sqrt(1 - beta2^step)

  MMFAST_HOST_DEVICE AdamStep(const AdamSettings& set, int64_t step)
      : beta2(static_cast<T>(set.beta2)),
        rest1(static_cast<T>(1 - set.beta1)),
        rest2(static_cast<T>(1 - set.beta2)),
        eps(static_cast<T>(set.eps)),
        size(static_cast<T>(set.lr / (1 - std::pow(set.beta1, static_cast<double>(step))))),
        correction(static_cast<T>(std::sqrt(1 - std::pow(set.beta2, static_cast<double>(step))))) {}

  // Returns what is taken from the parameter; m and v become those after the step.
  MMFAST_HOST_DEVICE inline __attribute__((always_inline)) T move(T grad, T& m, T& v) const {
    m += rest1 * (grad - m);
    v = beta2 * v + rest2 * grad * grad;
    return size * m / (std::sqrt(v) / correction + eps);
  }
};

}  // namespace mmfast
