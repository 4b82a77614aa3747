// Why the bounds hold. With x' = x + dx, y' = y + dy: |x'.y' - x.y| = |dx.y' + x.dy| <= |dx||y'| + |x||dy|.
// Products of bfloat16 are exact in float32; adding n of them in any order errs by at most n u / (1 - n u) |x'||y'|
// with u = 2^-23, which also covers units that cut instead of rounding. Where all errors are at most b, the k-th best
// number is at least s_k - b, s_k being the k-th best proposal, and a number that reaches it was proposed with s_k - 2
// b or more.
#include "proposals.h"

#include <cmath>

#include "../search_checks.h"
#include "simd.h"

namespace mmfast {
namespace {

constexpr int64_t kLeastWidth = 64;     // below it the products are too short to be worth proposing
constexpr double kOutput = 0x1p-8;      // a bfloat16 result s stands for numbers up to 2^-8 |s| away
constexpr double kAddition = 0x1p-23;   // of float32, rounded or cut
constexpr double kOverflow = 1e38;      // sums stay below it or nothing is proved
constexpr double kSmallest = 0x1p-126;  // bfloat16 units take smaller numbers for zero

bool has_bfloat16_units() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_supports("avx512bf16");  // every CPU with AMX has it too
#else
  return false;
#endif
}

}  // namespace

bool proposes(c10::string_view precision, at::ScalarType type, int64_t width, const char* op) {
  check_precision(precision, type, op);
  if (precision == "auto") return type != at::kDouble && width >= kLeastWidth && has_bfloat16_units();
  return precision == "bfloat16";
}

MMFAST_CLONES Rounding round_row(const float* x, int64_t width, c10::BFloat16* rounded) {
  double square = 0, error = 0;
  for (int64_t f = 0; f < width; ++f) {
    rounded[f] = x[f];
    const double value = x[f], off = static_cast<float>(rounded[f]) - value;
    square += value * value;
    error += off * off;
  }
  return {std::sqrt(square), std::sqrt(error)};
}

double product_error(const Rounding& x, const Rounding& others, int64_t width) {
  constexpr double kFloat64 = 1 + 1e-9;  // this function, norms and errors are themselves rounded
  const double y = others.norm + others.error, sum = width * kAddition, tiny = 2 * width * kSmallest;
  const double adding = sum / (1 - sum), deciding = 0x1p-23;
  if (!(sum < 0.5) || !((x.norm + x.error) * y < kOverflow)) return INFINITY;
  return kFloat64 *
         (x.error * y + x.norm * others.error + (adding + deciding) * (x.norm + x.error) * y + tiny * (1 + x.norm + y));
}

int64_t contenders(const float* scores, int64_t count, int64_t k, double product_error, bool complete) {
  if (!std::isfinite(product_error)) return -1;
  if (complete && count <= k) return count;
  const double kth = scores[k - 1], reach = kth - kOutput * std::abs(kth) - 2 * product_error;
  for (int64_t i = k; i < count; ++i) {
    if (scores[i] + kOutput * std::abs(static_cast<double>(scores[i])) < reach) return i;
  }
  return complete ? count : -1;
}

MMFAST_CLONES float decisive_product(const float* x, const float* y, int64_t width) {
  constexpr int kLanes = 16;
  double sum[kLanes] = {};
  int64_t f = 0;
  for (; f + kLanes <= width; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * y[f + lane];
  }
  for (; f < width; ++f) sum[0] += static_cast<double>(x[f]) * y[f];
  double total = 0;
  for (double part : sum) total += part;
  return static_cast<float>(total);
}

}  // namespace mmfast
