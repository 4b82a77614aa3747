// Binds the weighted sampling of edges: keys, the smallest by a stable sort, their ids in order.
#include "sample_edges.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>

#include <optional>
#include <tuple>

#include "bind.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "sample_edges";

at::Tensor sample_edges(const at::Tensor& weights, int64_t num_kept, int64_t seed, int64_t stream) {
  const DeviceScope scope(weights);
  check_dim(weights, 1, kOp, "weights");
  check_real(weights, kOp, "weights");
  const auto values = weights.contiguous();
  const int64_t size = values.numel();
  TORCH_CHECK_VALUE(num_kept >= 0 && num_kept <= size, kOp, ": num_kept=", num_kept, " but there are ", size,
                    " edges; choose 0 to ", size);
  const at::Tensor keys = at::empty({size}, values.options().dtype(at::kLong));
  if (size == 0) return keys;
  const auto draw = [&]<typename T>(T) {
    check(sample_edges_keys(values.const_data_ptr<T>(), size, static_cast<uint64_t>(seed),
                            static_cast<uint64_t>(stream), keys.mutable_data_ptr<int64_t>(), scope.stream()));
  };
  values.scalar_type() == at::kFloat ? draw(float{}) : draw(double{});
  // Stable: the lower id first among equal keys, and the first bad edge, whose key is -1, before all others.
  const auto [sorted, order] = at::sort(keys, /*stable=*/std::optional(true), /*dim=*/0);
  if (sorted[0].item<int64_t>() < 0) {
    const int64_t bad = order[0].item<int64_t>();
    TORCH_CHECK_VALUE(false, kOp, ": the weight of edge ", bad, " is ", values[bad].item<double>(),
                      "; wanted a finite number above zero");
  }
  return std::get<0>(at::sort(order.narrow(0, 0, num_kept), 0));
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("sample_edges", &sample_edges); }

}  // namespace mmfast
