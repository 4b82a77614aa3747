// What the searches refuse.
#include "search_checks.h"

#include <ATen/ops/any.h>
#include <ATen/ops/isnan.h>

#include <algorithm>
#include <limits>

#include "check.h"

namespace mmfast {

bool check_features(const at::Tensor& features, c10::string_view metric, int64_t block_bytes, const char* op) {
  check_dim(features, 2, op, "features");
  const auto type = features.scalar_type();
  TORCH_CHECK(type == at::kHalf || type == at::kBFloat16 || type == at::kFloat || type == at::kDouble, op,
              ": features is ", type, "; wanted Half, BFloat16, Float or Double");
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "inner", op, ": metric='", metric,
                    "' is unknown; choose cosine or inner");
  TORCH_CHECK_VALUE(block_bytes > 0, op, ": block_bytes=", block_bytes, "; choose a number above zero");
  TORCH_CHECK_VALUE(features.size(0) < std::numeric_limits<int32_t>::max(), op, ": features has ", features.size(0),
                    " rows; ids are int32, so give fewer than 2147483647");
  return metric == "cosine";
}

void check_k(int64_t k, int64_t size, bool include_self, const char* op) {
  const int64_t most = include_self ? size : std::max<int64_t>(0, size - 1);
  TORCH_CHECK_VALUE(k >= 1 && k <= most, op, ": k=", k, " but there are only ", size, " items; choose k <= ", most);
}

void check_known_lists(const at::Tensor& features, const at::Tensor& neighbours, const at::Tensor& similarities,
                       bool include_self, const char* op) {
  check_dim(neighbours, 2, op, "neighbours");
  check_dim(similarities, 2, op, "similarities");
  check_dtype(neighbours, at::kInt, op, "neighbours");
  check_dtype(similarities, features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat, op, "similarities");
  check_device(neighbours, features, op, "neighbours");
  check_device(similarities, features, op, "similarities");
  const int64_t old = neighbours.size(0), k = neighbours.size(1);
  TORCH_CHECK_VALUE(old <= features.size(0), op, ": neighbours has ", old, " rows, but features only ",
                    features.size(0), "; give the lists of its first rows");
  check_k(k, features.size(0), include_self, op);
  check_size(similarities, 0, old, op, "similarities");
  check_size(similarities, 1, k, op, "similarities");
  TORCH_CHECK_VALUE(!similarities.isnan().any().item<bool>(), op,
                    ": similarities holds NaN, which knn_graph never gives; make the old lists anew");
}

void check_precision(c10::string_view precision, at::ScalarType type, const char* op) {
  TORCH_CHECK_VALUE(precision == "auto" || precision == "float32" || precision == "bfloat16", op, ": precision='",
                    precision, "' is unknown; choose auto, float32 or bfloat16");
  TORCH_CHECK_VALUE(
      precision != "bfloat16" || type != at::kDouble, op,
      ": precision='bfloat16' proposes for numbers of up to 32 bits, but these are Double; choose auto or float32");
}

void check_rank_tables(const at::Tensor& users, const at::Tensor& items, const char* op) {
  check_dim(users, 2, op, "users");
  check_dim(items, 2, op, "items");
  const auto type = users.scalar_type();
  TORCH_CHECK(at::isFloatingType(type) && at::elementSize(type) >= 2, op, ": users is ", type,
              "; wanted Float, Double, Half or BFloat16");
  check_like(items, users, op, "items");
  check_size(items, 1, users.size(1), op, "items");
}

void check_rank_k(int64_t k, int64_t pool, bool candidates, const char* op) {
  TORCH_CHECK_VALUE(k >= 1 && k <= pool, op, ": k=", k, " but there are only ", pool,
                    candidates ? " candidates" : " items", "; choose k <= ", pool);
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
