// Checks of values on the device, as bindings call them.
#include "bind.h"

#include <ATen/ops/all.h>
#include <ATen/ops/diff.h>
#include <ATen/ops/gt.h>

#include <cstdlib>
#include <cstring>

namespace mmfast {
namespace {

bool blocking() {
  const char* setting = std::getenv("CUDA_LAUNCH_BLOCKING");
  return setting && std::strcmp(setting, "1") == 0;
}

}  // namespace

Label label_of(const char* op, const char* name) {
  Label label{};
  std::strncpy(label.op, op, sizeof(label.op) - 1);
  std::strncpy(label.name, name, sizeof(label.name) - 1);
  return label;
}

void check_on_device(const std::function<cudaError_t()>& on_device, const std::function<void()>& on_host) {
  if (blocking()) return on_host();
  const cudaError_t error = on_device();
  if (error == cudaErrorLaunchFailure) on_host();  // a stopped emulated device: the sentence is the host's
  check(error);
}

void check_device_ids(const at::Tensor& ids, int64_t size, const char* op, const char* name, cudaStream_t stream) {
  TORCH_CHECK(ids.is_contiguous(), op, ": ", name, " is not contiguous; call .contiguous()");
  if (ids.scalar_type() != at::kLong) check_dtype(ids, at::kInt, op, name);
  const Label label = label_of(op, name);
  check_on_device(
      [&] {
        return ids.scalar_type() == at::kLong
                   ? device_check_ids(ids.const_data_ptr<int64_t>(), ids.numel(), size, label, stream)
                   : device_check_ids(ids.const_data_ptr<int32_t>(), ids.numel(), size, label, stream);
      },
      [&] { check_ids(ids.cpu(), size, op, name); });
}

at::Tensor checked_device_rows(const at::Tensor& rows, int64_t size, const char* op, cudaStream_t stream,
                               const char* advice) {
  check_dim(rows, 1, op, "rows");
  check_dtype(rows, at::kLong, op, "rows");
  const at::Tensor dense = rows.contiguous();
  check_device_ids(dense, size, op, "rows", stream);
  const int64_t* r = dense.const_data_ptr<int64_t>();
  check_on_device([&] { return device_check_rising(r, dense.numel(), label_of(op, "rows"), stream); },
                  [&] {
                    TORCH_CHECK(at::all(at::gt(at::diff(dense), 0)).item<bool>(), op,
                                ": rows are not sorted and unique; ", advice);
                  });
  return dense;
}

void check_device_number(const at::Tensor& number, int64_t least, int64_t most, const char* op, const char* name,
                         cudaStream_t stream) {
  const int64_t* n = number.const_data_ptr<int64_t>();
  check_on_device([&] { return device_check_number(n, least, most, label_of(op, name), stream); },
                  [&] { check_number(number.item<int64_t>(), least, most, op, name); });
}

}  // namespace mmfast
