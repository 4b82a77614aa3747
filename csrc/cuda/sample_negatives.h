// Launcher of the kernel that draws negatives.
#pragma once
#include <cstdint>

#include "runtime.h"

namespace mmfast {

struct IdList {
  const int32_t* ids;  // ascending
  int64_t size;
};

// What is drawn for an entry whose user has no negative, an unusable range of positives, an id out of range, or
// positives that do not ascend.
constexpr int64_t kNoNegative = -1, kBadRange = -2, kBadUser = -3, kFalling = -4;

// drawn[b] for users[b], from the counter offset + b. The positives of user u are items[ptr[u] .. ptr[u + 1]).
cudaError_t sample_negatives_forward(const int64_t* users, int64_t count, const int64_t* ptr, int64_t num_users,
                                     IdList items, IdList candidates, uint64_t seed, uint64_t offset, int64_t* drawn,
                                     cudaStream_t stream);

}  // namespace mmfast
