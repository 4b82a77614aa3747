// Binds the draw of negatives; the host waits once, to name an entry that has no negative.
#include "sample_negatives.h"

#include <ATen/ops/amin.h>
#include <ATen/ops/empty.h>

#include "../sample_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "sample_negatives";
constexpr int64_t kItemIds = int64_t{1} << 31;  // of int32

// Raises for the first entry without a negative.
void refuse(const at::Tensor& drawn, const at::Tensor& users, const at::Tensor& user_ptr, int64_t num_pairs,
            int64_t num_candidates) {
  const at::Tensor found = drawn.cpu(), user = users.cpu(), ptr = user_ptr.cpu();
  check_ids(user, ptr.numel() - 1, kOp, "users");
  const int64_t* first = ptr.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < found.numel(); ++b) {
    const int64_t result = found.const_data_ptr<int64_t>()[b], id = user.const_data_ptr<int64_t>()[b];
    TORCH_CHECK(result != kBadRange, kOp, ": user_ptr of user ", id, " is ", first[id], " to ", first[id + 1],
                "; wanted ascending offsets into the ", num_pairs, " user_items");
    TORCH_CHECK_VALUE(result != kFalling, kOp, ": the user_items of user ", id,
                      " do not ascend; sort them and leave repeated ones out");
    TORCH_CHECK_VALUE(result != kNoNegative, kOp, ": user ", id, " has all ", num_candidates,
                      " candidate items as positives, so no negative exists; leave the user out or allow more items");
  }
}

at::Tensor sample_negatives(const at::Tensor& users, const at::Tensor& user_ptr, const at::Tensor& user_items,
                            const at::Tensor& candidates, int64_t seed, int64_t offset) {
  const DeviceScope scope(users);
  check_sample_negatives(users, user_ptr, user_items, candidates, kOp);
  const auto entries = users.contiguous(), ptr = user_ptr.contiguous(), items = user_items.contiguous(),
             allowed = candidates.contiguous();
  auto drawn = at::empty(entries.sizes(), entries.options());
  if (drawn.numel() == 0) return drawn;
  check_on_device(
      [&] {
        const auto* ids = allowed.const_data_ptr<int32_t>();
        const Label label = label_of(kOp, "candidates");
        const cudaError_t range = device_check_ids(ids, allowed.numel(), kItemIds, label, scope.stream());
        return range == cudaSuccess ? device_check_rising(ids, allowed.numel(), label, scope.stream()) : range;
      },
      [&] { check_candidates(allowed.cpu().const_data_ptr<int32_t>(), allowed.numel(), kOp); });
  check(sample_negatives_forward(entries.const_data_ptr<int64_t>(), entries.numel(), ptr.const_data_ptr<int64_t>(),
                                 ptr.numel() - 1, {items.const_data_ptr<int32_t>(), items.numel()},
                                 {allowed.const_data_ptr<int32_t>(), allowed.numel()}, static_cast<uint64_t>(seed),
                                 static_cast<uint64_t>(offset), drawn.mutable_data_ptr<int64_t>(), scope.stream()));
  if (at::amin(drawn).item<int64_t>() < 0) refuse(drawn, entries, ptr, items.numel(), allowed.numel());
  return drawn;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("sample_negatives", &sample_negatives); }

}  // namespace mmfast
