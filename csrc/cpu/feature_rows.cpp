// What is asked of a feature table, and the loops over a row, compiled per x86 level.
#include "feature_rows.h"

namespace mmfast {
namespace {

template <typename T>
MMFAST_INLINE double sum_of_squares(const T* x, int64_t size) {
  constexpr int kLanes = 16;
  double sum[kLanes] = {};
  int64_t f = 0;
  for (; f + kLanes <= size; f += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(x[f + lane]) * x[f + lane];
  }
  for (; f < size; ++f) sum[0] += static_cast<double>(x[f]) * x[f];
  double total = 0;
  for (double part : sum) total += part;
  return total;
}

template <typename T>
MMFAST_INLINE void scale_all(T* x, int64_t size, double scale) {
  for (int64_t f = 0; f < size; ++f) x[f] = static_cast<T>(x[f] * scale);
}

}  // namespace

bool check_features(const at::Tensor& features, c10::string_view metric, int64_t block_bytes, const char* op) {
  check_dim(features, 2, op, "features");
  const auto type = features.scalar_type();
  TORCH_CHECK(type == at::kHalf || type == at::kFloat || type == at::kDouble, op, ": features is ", type,
              "; wanted Half, Float or Double");
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "inner", op, ": metric='", metric,
                    "' is unknown; choose cosine or inner");
  TORCH_CHECK_VALUE(block_bytes > 0, op, ": block_bytes=", block_bytes, "; choose a number above zero");
  TORCH_CHECK_VALUE(features.size(0) < std::numeric_limits<int32_t>::max(), op, ": features has ", features.size(0),
                    " rows; ids are int32, so give fewer than 2147483647");
  return metric == "cosine";
}

MMFAST_CLONES double squared_norm(const float* x, int64_t size) { return sum_of_squares(x, size); }
MMFAST_CLONES double squared_norm(const double* x, int64_t size) { return sum_of_squares(x, size); }
MMFAST_CLONES void scale_row(float* x, int64_t size, double scale) { scale_all(x, size, scale); }
MMFAST_CLONES void scale_row(double* x, int64_t size, double scale) { scale_all(x, size, scale); }

}  // namespace mmfast
