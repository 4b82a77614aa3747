// Argument checks that the searches, knn_graph's family and rank, share on every device.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

namespace mmfast {

// Returns whether the metric is cosine.
bool check_features(const at::Tensor& features, c10::string_view metric, int64_t block_bytes, const char* op);

// k of a list of neighbours.
void check_k(int64_t k, int64_t size, bool include_self, const char* op);

// The lists of the first rows of features, which knn_update goes on from; the values of ids are left to the device.
void check_known_lists(const at::Tensor& features, const at::Tensor& neighbours, const at::Tensor& similarities,
                       bool include_self, const char* op);

void check_precision(c10::string_view precision, at::ScalarType type, const char* op);

// The tables of rank, and its k of `pool` items or candidates.
void check_rank_tables(const at::Tensor& users, const at::Tensor& items, const char* op);
void check_rank_k(int64_t k, int64_t pool, bool candidates, const char* op);

// One ascending list of item ids per user: ptr int64 [num_users + 1], items int32.
void check_list_types(const at::Tensor& ptr, const at::Tensor& items, int64_t num_users, const char* op,
                      const char* ptr_name, const char* name);

// Types and values; ptr and items are contiguous and on the CPU.
void check_lists(const at::Tensor& ptr, const at::Tensor& items, int64_t num_users, int64_t num_items, const char* op,
                 const char* ptr_name, const char* name);

}  // namespace mmfast
