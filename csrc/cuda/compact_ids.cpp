// Binds the renumbering of ids; the number of distinct ids is the one thing the host waits for.
#include "compact_ids.h"

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "bind.h"

namespace mmfast {
namespace {

std::tuple<at::Tensor, at::Tensor> compact_ids(const at::Tensor& ids, int64_t num_rows) {
  const DeviceScope scope(ids);
  check_dtype(ids, at::kLong, "compact_ids", "ids");
  TORCH_CHECK(num_rows >= 0, "compact_ids: num_rows is ", num_rows, "; wanted 0 or more");
  const at::Tensor dense = ids.contiguous();
  check_device_ids(dense, num_rows, "compact_ids", "ids", scope.stream());
  const at::Tensor index = at::empty(ids.sizes(), ids.options());
  if (ids.numel() == 0) return {at::empty({0}, ids.options()), index};
  const at::Tensor present = at::zeros({num_rows}, ids.options().dtype(at::kByte));
  check(compact_ids_mark(dense.const_data_ptr<int64_t>(), dense.numel(), present.mutable_data_ptr<uint8_t>(),
                         scope.stream()));
  const at::Tensor place = at::cumsum(present, 0, at::kLong);
  const at::Tensor rows = at::empty({place[num_rows - 1].item<int64_t>()}, ids.options());
  check(compact_ids_write(dense.const_data_ptr<int64_t>(), dense.numel(), present.const_data_ptr<uint8_t>(),
                          place.const_data_ptr<int64_t>(), num_rows, rows.mutable_data_ptr<int64_t>(),
                          index.mutable_data_ptr<int64_t>(), scope.stream()));
  return {rows, index};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("compact_ids", &compact_ids); }

}  // namespace mmfast
