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
constexpr double kAddition = 0x1p-23;   // of float32, rounded or cut
constexpr double kFloat64 = 1 + 1e-9;   // bounds, norms and errors are themselves rounded
constexpr double kOverflow = 1e38;      // sums stay below it or nothing is proved
constexpr double kSmallest = 0x1p-126;  // bfloat16 units take smaller numbers for zero

template <typename T>
MMFAST_INLINE Rounding rounding(const T* x, int64_t width) {
  constexpr int64_t kLanes = 16;
  double squares[kLanes] = {}, errors[kLanes] = {};
  for (int64_t begin = 0; begin < width; begin += kLanes) {
    const int64_t lanes = std::min(kLanes, width - begin);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const auto value = static_cast<double>(x[begin + lane]);
      const double off = static_cast<float>(c10::BFloat16(static_cast<float>(x[begin + lane]))) - value;
      squares[lane] += value * value;
      errors[lane] += off * off;
    }
  }
  const double square = std::accumulate(squares, squares + kLanes, 0.0);
  return {std::sqrt(square), std::sqrt(std::accumulate(errors, errors + kLanes, 0.0))};
}

template <typename T>
MMFAST_INLINE double ordered_product(const T* x, const T* y, int64_t width) {
  constexpr int kLanes = 16;
  double sum[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) sum[lane] = 0;
  int64_t f = 0;
  for (; f + kLanes <= width; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * y[f + lane];
  }
  for (; f < width; ++f) sum[0] += static_cast<double>(x[f]) * y[f];
  for (int lane = 0; lane < 8; ++lane) sum[lane] += sum[lane + 8];
  for (int lane = 0; lane < 4; ++lane) sum[lane] += sum[lane + 4];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <typename T>
MMFAST_INLINE void ordered_products(const T* x, const T* rows, const int32_t* places, int64_t count, int64_t width,
                                    T* out) {
  constexpr int64_t kAhead = 4;  // rows between the prefetch of one and its use
  const auto row = [&](int64_t i) { return rows + (places ? places[i] : i) * width; };
  for (int64_t i = 0; i < count; ++i) {
    const auto* later = reinterpret_cast<const char*>(row(std::min(i + kAhead, count - 1)));
    for (int64_t byte = 0; byte < width * static_cast<int64_t>(sizeof(T)); byte += 64) {
      __builtin_prefetch(later + byte);
    }
    out[i] = static_cast<T>(ordered_product(x, row(i), width));
  }
}

}  // namespace

bool cpu_has_bfloat16_units() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_supports("avx512bf16");  // every CPU with AMX has it too
#else
  return false;
#endif
}

bool proposes(c10::string_view precision, at::ScalarType type, int64_t width, bool units, const char* op) {
  check_precision(precision, type, op);
  if (precision == "auto") return type != at::kDouble && width >= kLeastWidth && units;
  return precision == "bfloat16";
}

MMFAST_CLONES Rounding rounding_of(const float* x, int64_t width) { return rounding(x, width); }

MMFAST_CLONES Rounding rounding_of(const double* x, int64_t width) { return rounding(x, width); }

double product_error(const Rounding& x, const Rounding& others, int64_t width) {
  const double y = others.norm + others.error, sum = width * kAddition, tiny = 2 * width * kSmallest;
  const double adding = sum / (1 - sum), deciding = 0x1p-23;
  if (!(sum < 0.5) || !((x.norm + x.error) * y < kOverflow)) return INFINITY;
  return kFloat64 *
         (x.error * y + x.norm * others.error + (adding + deciding) * (x.norm + x.error) * y + tiny * (1 + x.norm + y));
}

// A proposal s stands for numbers up to `output` |s| away, and then up to `error`: the best it can be must reach the
// worst that the k-th can be.
template <typename T>
T least_contender(T kth, double error, double output) {
  const double worst = kth - output * std::abs(static_cast<double>(kth)) - 2 * error;
  const double least = worst / (worst < 0 ? 1 - output : 1 + output);
  if (!std::isfinite(least)) return -std::numeric_limits<T>::infinity();
  return std::nextafter(static_cast<T>(least), -std::numeric_limits<T>::infinity());
}

template float least_contender(float, double, double);
template double least_contender(double, double, double);

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

double bfloat16_product_error(int64_t width) {
  constexpr double kInputs = 2 * 0x1p-9 + 0x1p-18;  // rounded to nearest
  return kInputs + double{kBFloat16Output} * (1 + kInputs) +
         (1 + kInputs) * (1 + double{kBFloat16Output}) * matrix_product_error<float>(width);
}

template <typename T>
double matrix_error(const Rounding& x, const Rounding& others, int64_t width) {
  constexpr double kLeast = sizeof(T) == 4 ? 0x1p-50 : 0x1p-483;  // squares that underflow are of shorter rows
  constexpr double kMost = sizeof(T) == 4 ? kOverflow : 1e300;
  const double lengths = kFloat64 * (x.norm + kLeast) * (others.norm + kLeast);
  const double tiny = 2 * width * double{std::numeric_limits<T>::min()};
  return lengths < kMost ? matrix_product_error<T>(width) * lengths + tiny * (1 + x.norm + others.norm) : INFINITY;
}

template double matrix_error<float>(const Rounding&, const Rounding&, int64_t);
template double matrix_error<double>(const Rounding&, const Rounding&, int64_t);

MMFAST_CLONES float decisive_product(const float* x, const float* y, int64_t width) {
  return static_cast<float>(ordered_product(x, y, width));
}

MMFAST_CLONES double decisive_product(const double* x, const double* y, int64_t width) {
  return ordered_product(x, y, width);
}

MMFAST_CLONES void decisive_products(const float* x, const float* rows, const int32_t* places, int64_t count,
                                     int64_t width, float* out) {
  ordered_products(x, rows, places, count, width, out);
}

MMFAST_CLONES void decisive_products(const double* x, const double* rows, const int32_t* places, int64_t count,
                                     int64_t width, double* out) {
  ordered_products(x, rows, places, count, width, out);
}

}  // namespace mmfast
