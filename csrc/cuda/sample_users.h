// Launchers of the kernels that draw distinct users.
#pragma once
#include <cstdint>

#include "device_check.h"
#include "runtime.h"

namespace mmfast {

// num_draws draws of num_entries of num_users users, distinct where there are enough.
struct UserDraws {
  const int64_t* users;
  int64_t num_users;
  int64_t num_entries;
  int64_t num_draws;
  uint64_t seed;
  uint64_t first_draw;
};

// Stops the device unless every user has 1 to 2^32 - 2 rows.
cudaError_t sample_users_check(const int64_t* users, int64_t count, const int64_t* ptr, const Label& label,
                               cudaStream_t stream);

// Draws that are made at a time; each takes num_users numbers of work space.
int64_t sample_users_at_once(const UserDraws& draws);

// rows [num_draws * num_entries]: one of the rows ptr[user] .. ptr[user + 1] of each drawn user.
cudaError_t sample_users_rows(const UserDraws& draws, const int64_t* ptr, unsigned long long* work, int64_t* rows,
                              cudaStream_t stream);

// triples [3, num_draws * num_entries]: each drawn user with two of num_items items.
cudaError_t sample_users_triples(const UserDraws& draws, int64_t num_items, unsigned long long* work, int64_t* triples,
                                 cudaStream_t stream);

}  // namespace mmfast
