// Which products of at::mm leave open what the numbers that decide say, and these numbers.
#pragma once
#include "feature_rows.h"
#include "proposals.h"

namespace mmfast {

// With e = slack(row) * lengths()[other], the number that decides lies between score - e and score + e.
template <typename T>
class Decisions {
 public:
  explicit Decisions(const FeatureRows<T>& features)
      : lengths_(features.lengths()),
        width_(features.width()),
        error_(static_cast<T>(matrix_product_error<T>(features.width()))) {}

  int64_t width() const { return width_; }
  const T* lengths() const { return lengths_; }
  T slack(int64_t row) const { return error_ * lengths_[row]; }
  T decide(const T* x, const T* y) const { return decisive_product(x, y, width_); }

 private:
  const T* const lengths_;
  const int64_t width_;
  const T error_;
};

}  // namespace mmfast
