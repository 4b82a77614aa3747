// The steps of Adam that a row without a gradient has not made yet, all at once: docs/row_lazy_adam.md. The same code
// serves CPU and CUDA.
//
// Without a gradient m and v only decay. So steps t+1 .. t+k take m * S from a number, with s = sqrt(v) and
//   S = sum_j a_j / (r_j s + eps),  a_j = lr beta1^j / (1 - beta1^(t+j)),  r_j = sqrt(beta2^j / (1 - beta2^(t+j))),
// where all but s and m is the same for the whole row. S is the Stieltjes transform of the discrete measure {a_j at
// r_j}; its n-point Gauss rule is the n-th convergent of a continued fraction, whose coefficients are those of the
// recurrence of the measure's orthogonal polynomials:
//   S ~ weight / (center_0 s + eps - spread_1 v / (center_1 s + eps - spread_2 v / ...)).
// The relative error is largest where eps is nothing beside s, and that is where it is measured.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "adam.h"

namespace mmfast {

constexpr int kRulePoints = 4;

struct ReplayRule {
  int points = 0;
  double weight = 0;
  double center[kRulePoints] = {}, spread[kRulePoints] = {};  // spread[0] is unused
};

// The largest relative error of a rule that is lost in the rounding of T.
template <typename T>
constexpr double kRuleError = sizeof(T) == 4 ? 7.5e-9 : 1e-14;

// The sum S by a rule, for eps = 0 and s = 1.
MMFAST_HOST_DEVICE inline double at_one(const ReplayRule& rule) {
  double below = rule.center[rule.points - 1];
  for (int l = rule.points - 2; l >= 0; --l) below = rule.center[l] - rule.spread[l + 1] / below;
  return rule.weight / below;
}

// The atoms of the measure. Powers are looked up: decay[j] = beta^j; bias1[s] = 1 / (1 - beta1^s) and bias2[s] = 1 /
// sqrt(1 - beta2^s) for steps s, which count, like t, from the first step of the tables; root2 = sqrt(beta2).
struct ReplayAtoms {
  const double *decay1, *decay_root2, *bias1, *bias2;
  int64_t t;

  MMFAST_HOST_DEVICE double weight(int64_t j) const { return decay1[j] * bias1[t + j]; }
  MMFAST_HOST_DEVICE double place(int64_t j) const { return decay_root2[j] * bias2[t + j]; }
};

// Who shares the work on one rule: atom j falls to lane j modulo `count`, and sum() adds up what the lanes have.
struct OneLane {
  static constexpr int64_t lane = 0, count = 1;

  MMFAST_HOST_DEVICE double sum(double x) const { return x; }
};

// Fits the rule with the fewest points to atoms [first, last). False when it takes more than kRulePoints.
template <typename Atoms, typename Lanes>
MMFAST_HOST_DEVICE bool fit_rule(const Atoms& atoms, const Lanes& lanes, int64_t first, int64_t last, double tolerance,
                                 ReplayRule& rule) {
  double exact = 0, norm = 1;
  for (int n = 0; n < kRulePoints; ++n) {
    double square = 0, moment = 0;
    for (int64_t j = first + lanes.lane; j < last; j += lanes.count) {
      const double a = atoms.weight(j), r = atoms.place(j);
      double before = 0, p = 1;
      for (int l = 0; l < n; ++l) {
        const double next = (r - rule.center[l]) * p - rule.spread[l] * before;
        before = p;
        p = next;
      }
      square += a * p * p;
      moment += a * r * p * p;
      if (n == 0) exact += a / r;
    }
    square = lanes.sum(square);
    moment = lanes.sum(moment);
    if (n == 0) exact = lanes.sum(exact);
    (n == 0 ? rule.weight : rule.spread[n]) = square / norm;
    rule.center[n] = moment / square;
    rule.points = n + 1;
    norm = square;
    if (last - first <= n + 1 || std::abs(at_one(rule) - exact) <= tolerance * exact) return true;
  }
  return false;
}

// Whether a row that waits moves less and less: a step is beta1 / sqrt(beta2) times the one before it.
inline bool can_wait(const AdamSettings& set) { return set.beta1 == 0 || set.beta1 < std::sqrt(set.beta2); }

// How many of k steps count where rows can wait: those further on move a row by less than the tolerance of all the
// others, or the products of fit_rule would leave float64, where any eps above 1e-30 is all of their denominators.
inline int64_t steps_that_count(const AdamSettings& set, int64_t k, double tolerance) {
  constexpr double kSmallest = 98;  // exp(-7 * 98), a weight times a polynomial's square, is a normal number yet
  const double ratio = set.beta1 / std::sqrt(set.beta2);
  const double count = 2 + std::log(tolerance * (1 - ratio) / 2) / std::log(ratio);
  return static_cast<int64_t>(std::min({static_cast<double>(k), count, kSmallest / -std::log(set.beta1)}));
}

// Calls emit(rule) for rules that together make the first `count` steps after t >= 1 (lr left out). Where t is small it
// takes several: Adam's bias correction still changes fast.
template <typename Atoms, typename Lanes, typename Emit>
MMFAST_HOST_DEVICE void for_rules(const Atoms& atoms, const Lanes& lanes, int64_t count, double tolerance,
                                  const Emit& emit) {
  for (int64_t first = 1, last; first <= count; first = last) {
    ReplayRule rule;
    last = count + 1;
    while (!fit_rule(atoms, lanes, first, last, tolerance, rule)) last = first + (last - first + 1) / 2;
    emit(rule);
  }
}

}  // namespace mmfast
