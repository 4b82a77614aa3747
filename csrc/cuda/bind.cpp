// Checks of values on the device, as bindings call them.
#include "bind.h"

#include <cstdlib>
#include <cstring>

#include "device_check.h"

namespace mmfast {
namespace {

Label label_of(const char* op, const char* name) {
  Label label{};
  std::strncpy(label.op, op, sizeof(label.op) - 1);
  std::strncpy(label.name, name, sizeof(label.name) - 1);
  return label;
}

bool blocking() {
  const char* setting = std::getenv("CUDA_LAUNCH_BLOCKING");
  return setting && std::strcmp(setting, "1") == 0;
}

}  // namespace

void check_on_device(const std::function<cudaError_t()>& on_device, const std::function<void()>& on_host) {
  if (blocking()) return on_host();
  const cudaError_t error = on_device();
  if (error == cudaErrorLaunchFailure) on_host();  // a stopped emulated device: the sentence is the host's
  check(error);
}

void check_device_ids(const at::Tensor& ids, int64_t size, const char* op, const char* name, cudaStream_t stream) {
  TORCH_CHECK(ids.is_contiguous(), op, ": ", name, " is not contiguous; call .contiguous()");
  if (ids.scalar_type() != at::kLong) check_dtype(ids, at::kInt, op, name);
  if (ids.numel() == 0) return;
  const Label label = label_of(op, name);
  check_on_device(
      [&] {
        return ids.scalar_type() == at::kLong
                   ? device_check_ids(ids.const_data_ptr<int64_t>(), ids.numel(), size, label, stream)
                   : device_check_ids(ids.const_data_ptr<int32_t>(), ids.numel(), size, label, stream);
      },
      [&] { check_ids(ids.cpu(), size, op, name); });
}

}  // namespace mmfast
