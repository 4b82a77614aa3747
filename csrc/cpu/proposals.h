// Proposals by matrix products, decisions by one sum in one order: which proposals the proven error leaves possible.
#pragma once
#include <c10/core/ScalarType.h>
#include <c10/util/string_view.h>

#include <algorithm>
#include <cstdint>

namespace mmfast {

// Whether the first pass is made in bfloat16: as told, or by "auto" where the device has units for such products.
bool proposes(c10::string_view precision, at::ScalarType type, int64_t width, bool units, const char* op);

bool cpu_has_bfloat16_units();

// Length of a row x, and of the difference between x and its bfloat16 rounding x'.
struct Rounding {
  double norm = 0, error = 0;

  void join(const Rounding& other) {
    norm = std::max(norm, other.norm);
    error = std::max(error, other.error);
  }
};

Rounding rounding_of(const float* x, int64_t width);
Rounding rounding_of(const double* x, int64_t width);

// A bound of |a - x.y| for every y whose norm and error are at most `others`: a is the bfloat16 product before it is
// itself rounded to bfloat16, x.y the float32 number that decides.
double product_error(const Rounding& x, const Rounding& others, int64_t width);

// A bfloat16 result s stands for numbers up to this many |s| away.
constexpr float kBFloat16Output = 0x1p-8;

// The least proposal that may be among the k best where the k-th best proposal is `kth` and none, which stands for
// numbers up to `output` of itself away, errs by more than `error` besides.
template <typename T>
T least_contender(T kth, double error, double output);

// A bound of |s - d| / (|x| |y|): s is the product that at::mm makes of x and y, d the number that decides. It also has
// room for the rounding of s + bound |x| |y|, and for products that underflow where lengths are FeatureRows's.
template <typename T>
double matrix_product_error(int64_t width);

// The same where x and y were rounded to bfloat16 before, and s to bfloat16 after.
double bfloat16_product_error(int64_t width);

// A bound of |a - x.y| for every y whose norm is at most that of `others`: a is the product that at::mm makes.
template <typename T>
double matrix_error(const Rounding& x, const Rounding& others, int64_t width);

// The number that decides: one sum in one order, in float64, so equal rows have equal numbers wherever they lie.
float decisive_product(const float* x, const float* y, int64_t width);
double decisive_product(const double* x, const double* y, int64_t width);

// The same for x and `count` rows of a table: those at `places`, or the first where `places` is null.
void decisive_products(const float* x, const float* rows, const int32_t* places, int64_t count, int64_t width,
                       float* out);
void decisive_products(const double* x, const double* rows, const int32_t* places, int64_t count, int64_t width,
                       double* out);

}  // namespace mmfast
