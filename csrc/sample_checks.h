// Arguments of the samplers, checked alike on every device; the values of ids and offsets are left to the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

#include "check.h"

namespace mmfast {

inline void check_sample_negatives(const at::Tensor& users, const at::Tensor& user_ptr, const at::Tensor& user_items,
                                   const at::Tensor& candidates, const char* op) {
  check_dim(users, 1, op, "users");
  check_dim(user_ptr, 1, op, "user_ptr");
  check_dim(user_items, 1, op, "user_items");
  check_dim(candidates, 1, op, "candidates");
  check_dtype(users, at::kLong, op, "users");
  check_dtype(user_ptr, at::kLong, op, "user_ptr");
  check_dtype(user_items, at::kInt, op, "user_items");
  check_dtype(candidates, at::kInt, op, "candidates");
  check_device(user_ptr, users, op, "user_ptr");
  check_device(user_items, users, op, "user_items");
  check_device(candidates, users, op, "candidates");
  TORCH_CHECK(candidates.numel() > 0, op, ": candidates is empty; wanted at least one item");
  TORCH_CHECK(user_ptr.numel() > 0, op, ": user_ptr is empty; wanted num_users + 1 offsets");
}

// The candidates, on the CPU.
inline void check_candidates(const int32_t* ids, int64_t count, const char* op) {
  TORCH_CHECK(std::adjacent_find(ids, ids + count, std::greater_equal<>()) == ids + count, op,
              ": candidates do not ascend; sort them and leave repeated ones out");
  TORCH_CHECK(count == 0 || ids[0] >= 0, op, ": candidates holds ", ids[0], "; wanted item ids from 0 on");
}

inline void check_sample_users(const at::Tensor& users, int64_t num_entries, int64_t num_draws, const char* op) {
  check_dim(users, 1, op, "users");
  check_dtype(users, at::kLong, op, "users");
  TORCH_CHECK(num_entries >= 0 && num_draws >= 0, op, ": num_entries=", num_entries, ", num_draws=", num_draws,
              "; wanted 0 or more");
  TORCH_CHECK(num_draws < std::numeric_limits<uint32_t>::max(), op, ": num_draws=", num_draws,
              "; wanted fewer than 2^32 - 1");
  TORCH_CHECK(users.numel() < std::numeric_limits<uint32_t>::max(), op, ": there are ", users.numel(),
              " users; wanted fewer than 2^32");
  TORCH_CHECK(users.numel() > 0 || num_entries * num_draws == 0, op, ": users is empty; wanted at least one user");
}

}  // namespace mmfast
