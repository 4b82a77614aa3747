// Why the bounds hold. With x' = x + dx, y' = y + dy: |x'.y' - x.y| = |dx.y' + x.dy| <= |dx||y'| + |x||dy|.
// Products of bfloat16 are exact in float32; adding n of them in any order errs by at most n u / (1 - n u) |x'||y'|
// with u = 2^-23, which also covers units that cut instead of rounding. Where all errors are at most b, the k-th best
// number is at least s_k - b, s_k being the k-th best proposal, and a number that reaches it was proposed with s_k - 2
// b or more.
#include "proposals.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <cmath>

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
  TORCH_CHECK_VALUE(precision == "auto" || precision == "float32" || precision == "bfloat16", op, ": precision='",
                    precision, "' is unknown; choose auto, float32 or bfloat16");
  TORCH_CHECK_VALUE(precision != "bfloat16" || type != at::kDouble, op,
                    ": precision='bfloat16' decides in float32, but the numbers are Double; choose auto or float32");
  if (precision == "auto") return type != at::kDouble && width >= kLeastWidth && has_bfloat16_units();
  return precision == "bfloat16";
}

MMFAST_CLONES Rounding rounding_of(const float* x, int64_t width) {
  constexpr int kLanes = 16;
  double squares[kLanes] = {}, errors[kLanes] = {};
  for (int64_t f = 0; f < width; ++f) {
    const double value = x[f], off = static_cast<double>(static_cast<float>(c10::BFloat16(x[f]))) - value;
    squares[f % kLanes] += value * value;
    errors[f % kLanes] += off * off;
  }
  for (int lane = 1; lane < kLanes; ++lane) {
    squares[0] += squares[lane];
    errors[0] += errors[lane];
  }
  return {std::sqrt(squares[0]), std::sqrt(errors[0])};
}

double product_error(const Rounding& x, const Rounding& others, int64_t width) {
  constexpr double kFloat64 = 1 + 1e-9;  // this function, norms and errors are themselves rounded
  const double y = others.norm + others.error, sum = width * kAddition, tiny = 2 * width * kSmallest;
  const double adding = sum / (1 - sum), deciding = 0x1p-23;
  if (!(sum < 0.5) || !((x.norm + x.error) * y < kOverflow)) return INFINITY;
  return kFloat64 *
         (x.error * y + x.norm * others.error + (adding + deciding) * (x.norm + x.error) * y + tiny * (1 + x.norm + y));
}

// A proposal s stands for numbers up to |s| / 2^8 away, and then up to product_error: the best it can be must reach the
// worst that the k-th can be.
float least_contender(float kth, double product_error) {
  const double worst = kth - kOutput * std::abs(static_cast<double>(kth)) - 2 * product_error;
  const double least = worst / (worst < 0 ? 1 - kOutput : 1 + kOutput);
  if (!std::isfinite(least)) return -INFINITY;
  return std::nextafter(static_cast<float>(least), -INFINITY);
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
