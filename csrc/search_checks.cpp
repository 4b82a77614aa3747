// What the searches refuse.
#include "search_checks.h"

#include <algorithm>
#include <limits>

#include "check.h"

namespace mmfast {

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

void check_precision(c10::string_view precision, at::ScalarType type, const char* op) {
  TORCH_CHECK_VALUE(precision == "auto" || precision == "float32" || precision == "bfloat16", op, ": precision='",
                    precision, "' is unknown; choose auto, float32 or bfloat16");
  TORCH_CHECK_VALUE(precision != "bfloat16" || type != at::kDouble, op,
                    ": precision='bfloat16' decides in float32, but the numbers are Double; choose auto or float32");
}

void check_list_types(const at::Tensor& ptr, const at::Tensor& items, int64_t num_users, const char* op,
                      const char* ptr_name, const char* name) {
  check_dim(ptr, 1, op, ptr_name);
  check_dim(items, 1, op, name);
  check_dtype(ptr, at::kLong, op, ptr_name);
  check_dtype(items, at::kInt, op, name);
  check_size(ptr, 0, num_users + 1, op, ptr_name);
}

void check_lists(const at::Tensor& ptr, const at::Tensor& items, int64_t num_users, int64_t num_items, const char* op,
                 const char* ptr_name, const char* name) {
  check_list_types(ptr, items, num_users, op, ptr_name, name);
  check_ids(items, num_items, op, name);
  const int64_t* offset = ptr.const_data_ptr<int64_t>();
  const int32_t* item = items.const_data_ptr<int32_t>();
  TORCH_CHECK(offset[0] >= 0 && offset[num_users] <= items.numel(), op, ": ", ptr_name, " runs from ", offset[0],
              " to ", offset[num_users], "; wanted offsets into the ", items.numel(), " ", name);
  for (int64_t user = 0; user < num_users; ++user) {
    TORCH_CHECK(offset[user] <= offset[user + 1], op, ": ", ptr_name, " falls from ", offset[user], " to ",
                offset[user + 1], " at user row ", user, "; wanted ascending offsets");
    TORCH_CHECK(std::is_sorted(item + offset[user], item + offset[user + 1]), op, ": ", name, " of user row ", user,
                " do not ascend; sort them");
  }
}

}  // namespace mmfast
