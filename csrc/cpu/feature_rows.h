// Rows of a feature table in the type of the products, of length one for cosine.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../search_checks.h"
#include "simd.h"

namespace mmfast {

double squared_norm(const float* x, int64_t size);
double squared_norm(const double* x, int64_t size);
void scale_row(float* x, int64_t size, double scale);
void scale_row(double* x, int64_t size, double scale);

// By cosine an all-zero row becomes NaN: no comparison lets its products in, so it costs the search nothing.
template <typename T>
class FeatureRows {
 public:
  FeatureRows(const at::Tensor& features, bool cosine, const char* op)
      : features_(features), cosine_(cosine), op_(op), scale_(features.size(0), kUnknown), lengths_(features.size(0)) {}

  int64_t size() const { return features_.size(0); }
  int64_t width() const { return features_.size(1); }
  at::Tensor empty(int64_t rows, at::ScalarType type = c10::CppTypeToScalarType<T>::value) const {
    return at::empty({rows, width()}, features_.options().dtype(type));
  }

  // No less than the length of every row that was loaded; far above rounding, so that products that underflow count.
  const T* lengths() const { return lengths_.data(); }

  // Rows from .. from + out.size(0), copied block by block: the table may lie in a file.
  void load(int64_t from, const at::Tensor& out) {
    const int64_t count = out.size(0);
    out.copy_(features_.narrow(0, from, count));
    int64_t bad = count;
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads()) reduction(min : bad)
    for (int64_t r = 0; r < count; ++r) {
      if (!finish_row(from + r, out.mutable_data_ptr<T>() + r * width())) bad = std::min(bad, r);
    }
    TORCH_CHECK_VALUE(bad == count, op_, ": row ", from + bad,
                      " of features holds NaN, infinity or numbers too large to multiply; repair that row");
  }

  // The rows `ids`, all of which were loaded before.
  at::Tensor gather(const at::Tensor& ids) {
    const at::Tensor out = features_.index_select(0, ids).to(c10::CppTypeToScalarType<T>::value);
    for (int64_t r = 0; r < out.size(0); ++r) {
      finish_row(ids.const_data_ptr<int32_t>()[r], out.mutable_data_ptr<T>() + r * width());
    }
    return out;
  }

 private:
  static constexpr double kUnknown = 0;
  const double kLeastLength = 2 * std::sqrt(std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon());

  bool finish_row(int64_t row, T* x) {
    double& scale = scale_[row];
    if (scale == kUnknown) {
      const double square = squared_norm(x, width());
      // The square bounds every inner product too: nothing overflows, however a sum is rounded on its way.
      if (!(square <= (cosine_ ? std::numeric_limits<double>::max() : double{std::numeric_limits<T>::max()} / 4))) {
        return false;
      }
      scale = !cosine_        ? 1
              : square == 0.0 ? std::numeric_limits<double>::quiet_NaN()
                              : 1 / std::max(std::sqrt(square), 1e-12);
      lengths_[row] = static_cast<T>((cosine_ ? 1 : std::sqrt(square)) * (1 + 1e-6) + kLeastLength);
    }
    if (cosine_) scale_row(x, width(), scale);
    return true;
  }

  const at::Tensor features_;
  const bool cosine_;
  const char* const op_;
  std::vector<double> scale_;
  std::vector<T> lengths_;
};

}  // namespace mmfast
