// One negative item per entry: uniform over the candidates that are not among the user's positives.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <span>

#include "../philox.h"
#include "../sample_checks.h"
#include "simd.h"

namespace mmfast {
namespace {

using Items = std::span<const int32_t>;

constexpr const char* kOp = "sample_negatives";
constexpr uint64_t kRejections = 64;  // then the complement is counted: ends for every user, and stays uniform
constexpr int64_t kSerial = 8192;     // entries below which waking the other threads costs more than it saves
constexpr int64_t kPairsPerDraw = 16;
constexpr const char* kFallingAdvice = " do not ascend; sort them and leave repeated ones out";
constexpr int64_t kNoFree = -1, kBadRow = -2, kFalling = -3;

// Whether ids rise; without an early end, so that many are compared at once.
MMFAST_CLONES bool rises(const int32_t* ids, int64_t count) {
  int32_t falls = 0;
  for (int64_t i = 1; i < count; ++i) falls |= ids[i - 1] >= ids[i];
  return falls == 0;
}

// The rank-th candidate that is not a positive; both lists ascend.
int64_t free_candidate(Items candidates, Items positives, uint64_t seed, uint64_t position) {
  int64_t taken = 0;
  auto from = candidates.begin();
  const auto advance = [&](int32_t item) {
    from = std::lower_bound(from, candidates.end(), item);
    return from != candidates.end() && *from == item;
  };
  for (const int32_t item : positives) taken += advance(item);
  const int64_t left = static_cast<int64_t>(candidates.size()) - taken;
  if (left <= 0) return kNoFree;
  int64_t at = below(philox(seed, position, kRejections).word[0], static_cast<uint32_t>(left));
  from = candidates.begin();
  for (const int32_t item : positives) {
    if (!advance(item)) continue;
    if (from - candidates.begin() > at) break;
    ++at;
  }
  return candidates[at];
}

int64_t draw(Items candidates, Items positives, uint64_t seed, uint64_t position) {
  const auto size = static_cast<uint32_t>(candidates.size());
  for (uint64_t attempt = 0; attempt < kRejections; ++attempt) {
    const int32_t item = candidates[below(philox(seed, position, attempt).word[0], size)];
    if (!std::binary_search(positives.begin(), positives.end(), item)) return item;
  }
  return free_candidate(candidates, positives, seed, position);
}

at::Tensor sample_negatives(const at::Tensor& users, const at::Tensor& user_ptr, const at::Tensor& user_items,
                            const at::Tensor& candidates, int64_t seed, int64_t offset) {
  check_sample_negatives(users, user_ptr, user_items, candidates, kOp);
  const auto entries = users.contiguous(), ptr = user_ptr.contiguous(), items = user_items.contiguous(),
             allowed = candidates.contiguous();
  check_ids(entries, ptr.numel() - 1, kOp, "users");
  check_candidates(allowed.const_data_ptr<int32_t>(), allowed.numel(), kOp);
  auto out = at::empty_like(entries);
  const int64_t* user = entries.const_data_ptr<int64_t>();
  const int64_t* first = ptr.const_data_ptr<int64_t>();
  const Items all(allowed.const_data_ptr<int32_t>(), allowed.numel());
  const Items positives(items.const_data_ptr<int32_t>(), items.numel());
  const int64_t size = entries.numel(), num_pairs = items.numel();
  int64_t* drawn = out.mutable_data_ptr<int64_t>();
  const auto usable = [&](int64_t u) { return first[u] >= 0 && first[u] <= first[u + 1] && first[u + 1] <= num_pairs; };
  const auto falls = [&](int64_t u) {
    return !rises(items.const_data_ptr<int32_t>() + first[u], first[u + 1] - first[u]);
  };
  // Where there are few lists beside the draws each is looked at once, else every draw looks at its own.
  const bool at_once = num_pairs <= kPairsPerDraw * size;
  for (int64_t u = 0; at_once && u + 1 < ptr.numel(); ++u) {
    TORCH_CHECK(!usable(u) || !falls(u), kOp, ": the user_items of user ", u, kFallingAdvice);
  }
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads()) if (size >= kSerial)
  for (int64_t b = 0; b < size; ++b) {
    const int64_t begin = first[user[b]], end = first[user[b] + 1];
    if (!usable(user[b])) {
      drawn[b] = kBadRow;
    } else if (!at_once && falls(user[b])) {
      drawn[b] = kFalling;
    } else {
      drawn[b] = draw(all, positives.subspan(begin, end - begin), seed, static_cast<uint64_t>(offset + b));
    }
  }
  for (int64_t b = 0; b < size; ++b) {
    TORCH_CHECK(drawn[b] != kBadRow, kOp, ": user_ptr of user ", user[b], " is ", first[user[b]], " to ",
                first[user[b] + 1], "; wanted ascending offsets into the ", num_pairs, " user_items");
    TORCH_CHECK(drawn[b] != kFalling, kOp, ": the user_items of user ", user[b], kFallingAdvice);
    TORCH_CHECK_VALUE(drawn[b] != kNoFree, kOp, ": user ", user[b], " has all ", all.size(),
                      " candidate items as positives, so no negative exists; leave the user out or allow more items");
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("sample_negatives", sample_negatives); }

}  // namespace mmfast
