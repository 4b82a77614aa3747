// One negative item per entry: uniform over the candidates that are not among the user's positives; a thread per entry.
#include "../philox.h"
#include "sample_negatives.h"

namespace mmfast {
namespace {

constexpr int kThreads = 128;
constexpr uint64_t kRejections = 64;  // then the complement is counted: ends for every user, and stays uniform

// The place of the first id from `first` on that is not below `id`.
__device__ int64_t lower_bound(IdList list, int64_t first, int32_t id) {
  for (int64_t last = list.size; first < last;) {
    const int64_t middle = first + (last - first) / 2;
    if (list.ids[middle] < id) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

__device__ bool holds(IdList list, int64_t place, int32_t id) { return place < list.size && list.ids[place] == id; }

// A uniform candidate that is not a positive; both lists are walked once to count and once to find.
__device__ int64_t free_candidate(IdList candidates, IdList positives, uint32_t word) {
  int64_t left = candidates.size, place = 0;
  for (int64_t i = 0; i < positives.size; ++i) {
    place = lower_bound(candidates, place, positives.ids[i]);
    left -= holds(candidates, place, positives.ids[i]);
  }
  if (left <= 0) return kNoNegative;
  int64_t at = below(word, static_cast<uint32_t>(left));
  place = 0;
  for (int64_t i = 0; i < positives.size; ++i) {
    place = lower_bound(candidates, place, positives.ids[i]);
    if (!holds(candidates, place, positives.ids[i])) continue;
    if (place > at) break;
    ++at;
  }
  return candidates.ids[at];
}

__device__ int64_t draw(IdList candidates, IdList positives, uint64_t seed, uint64_t position) {
  for (int64_t i = 1; i < positives.size; ++i) {
    if (positives.ids[i - 1] >= positives.ids[i]) return kFalling;
  }
  const auto size = static_cast<uint32_t>(candidates.size);
  for (uint64_t attempt = 0; attempt < kRejections; ++attempt) {
    const int32_t item = candidates.ids[below(philox(seed, position, attempt).word[0], size)];
    if (!holds(positives, lower_bound(positives, 0, item), item)) return item;
  }
  return free_candidate(candidates, positives, philox(seed, position, kRejections).word[0]);
}

__global__ void draw_kernel(const int64_t* users, int64_t count, const int64_t* ptr, int64_t num_users, IdList items,
                            IdList candidates, uint64_t seed, uint64_t offset, int64_t* drawn) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t b = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; b < count; b += step) {
    const int64_t user = users[b];
    if (user < 0 || user >= num_users) {
      drawn[b] = kBadUser;
      continue;
    }
    const int64_t begin = ptr[user], end = ptr[user + 1];
    const bool usable = begin >= 0 && begin <= end && end <= items.size;
    drawn[b] = usable ? draw(candidates, {items.ids + begin, end - begin}, seed, offset + b) : kBadRange;
  }
}

}  // namespace

cudaError_t sample_negatives_forward(const int64_t* users, int64_t count, const int64_t* ptr, int64_t num_users,
                                     IdList items, IdList candidates, uint64_t seed, uint64_t offset, int64_t* drawn,
                                     cudaStream_t stream) {
  MMFAST_LAUNCH(draw_kernel, blocks_for(count, kThreads), kThreads, 0, stream, users, count, ptr, num_users, items,
                candidates, seed, offset, drawn);
  return cudaGetLastError();
}

}  // namespace mmfast
