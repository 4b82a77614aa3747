// Proposals by bfloat16 products, decisions by float32 ones: which proposals the proven error leaves possible.
#pragma once
#include <c10/core/ScalarType.h>
#include <c10/util/string_view.h>

#include <algorithm>
#include <cstdint>

namespace mmfast {

// Whether the first pass is made in bfloat16: as told, or by "auto" where the CPU has units for such products.
bool proposes(c10::string_view precision, at::ScalarType type, int64_t width, const char* op);

// Length of a row x, and of the difference between x and its bfloat16 rounding x'.
struct Rounding {
  double norm = 0, error = 0;

  void join(const Rounding& other) {
    norm = std::max(norm, other.norm);
    error = std::max(error, other.error);
  }
};

Rounding rounding_of(const float* x, int64_t width);

// A bound of |a - x.y| for every y whose norm and error are at most `others`: a is the bfloat16 product before it is
// itself rounded to bfloat16, x.y the float32 number that decides.
double product_error(const Rounding& x, const Rounding& others, int64_t width);

// The least proposal that may be among the k best where the k-th best proposal is `kth` and none errs by more than
// `product_error`.
float least_contender(float kth, double product_error);

// A bound of |s - d| / (|x| |y|): s is the product that at::mm makes of x and y, d the number that decides. It also has
// room for the rounding of s + bound |x| |y|, and for products that underflow where lengths are FeatureRows's.
template <typename T>
double matrix_product_error(int64_t width);

// The number that decides: one sum in one order, in float64, so equal rows have equal numbers wherever they lie.
float decisive_product(const float* x, const float* y, int64_t width);
double decisive_product(const double* x, const double* y, int64_t width);

}  // namespace mmfast
