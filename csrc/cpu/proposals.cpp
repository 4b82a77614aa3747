// Why the bounds hold. With x' = x + dx, y' = y + dy: |x'.y' - x.y| = |dx.y' + x.dy| <= |dx||y'| + |x||dy|.
// Products of bfloat16 are exact in float32; adding n of them in any order errs by at most n u / (1 - n u) |x'||y'|
// with u = 2^-23, which also covers units that cut instead of rounding. Where all errors are at most b, and s_k is the
// k-th best proposal, the k-th best number is s_k - b or more, and a number that reaches it was proposed with at least
// s_k - 2 b.
#include "proposals.h"

#include <ATen/Context.h>
#include <c10/util/BFloat16.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

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

template <typename T>
MMFAST_INLINE double ordered_product(const T* x, const T* y, int64_t width) {
  constexpr int kLanes = 16;
  double sum[kLanes] = {};
  int64_t f = 0;
  for (; f + kLanes <= width; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * y[f + lane];
  }
  for (; f < width; ++f) sum[0] += static_cast<double>(x[f]) * y[f];
  return std::accumulate(sum, sum + kLanes, 0.0);
}

}  // namespace

bool proposes(c10::string_view precision, at::ScalarType type, int64_t width, const char* op) {
  check_precision(precision, type, op);
  if (precision == "auto") return type != at::kDouble && width >= kLeastWidth && has_bfloat16_units();
  return precision == "bfloat16";
}

MMFAST_CLONES Rounding rounding_of(const float* x, int64_t width) {
  constexpr int64_t kLanes = 16;
  double squares[kLanes] = {}, errors[kLanes] = {};
  for (int64_t begin = 0; begin < width; begin += kLanes) {
    const int64_t lanes = std::min(kLanes, width - begin);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double value = x[begin + lane], off = static_cast<float>(c10::BFloat16(x[begin + lane])) - value;
      squares[lane] += value * value;
      errors[lane] += off * off;
    }
  }
  const double square = std::accumulate(squares, squares + kLanes, 0.0);
  return {std::sqrt(square), std::sqrt(std::accumulate(errors, errors + kLanes, 0.0))};
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

// Told to, torch rounds float32 to bfloat16 or TF32 before it multiplies: each factor is then off by 2^-8 or less.
template <typename T>
double matrix_product_error(int64_t width) {
  constexpr double kUnit = std::numeric_limits<T>::epsilon();  // twice that of rounding: a sum may be cut instead
  if (!(width * kUnit < 0.5)) return std::numeric_limits<double>::infinity();
  const double adding = width * kUnit / (1 - width * kUnit);
  const auto precision = at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  const bool full = precision == at::Float32Precision::IEEE || precision == at::Float32Precision::NONE;
  const double rounding = std::is_same_v<T, double> || full ? 0 : 0x1p-6;
  const double deciding = std::is_same_v<T, double> ? adding : kUnit;
  return rounding + (1 + rounding) * adding + deciding + 4 * kUnit;
}

template double matrix_product_error<float>(int64_t);
template double matrix_product_error<double>(int64_t);

MMFAST_CLONES float decisive_product(const float* x, const float* y, int64_t width) {
  return static_cast<float>(ordered_product(x, y, width));
}

MMFAST_CLONES double decisive_product(const double* x, const double* y, int64_t width) {
  return ordered_product(x, y, width);
}

}  // namespace mmfast
