// What csrc/cuda/<op>.cpp needs to bind kernels to the dispatcher. Emulated, the same bindings take CPU tensors and
// stand in for the CPU kernels of _C, so that the tests of the ops run against them.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <functional>
#include <optional>

#include "../check.h"
#include "device_check.h"
#include "runtime.h"

#ifdef MMFAST_EMULATED
#define MMFAST_CUDA_LIBRARY(m) TORCH_LIBRARY_IMPL(mmfast, CPU, m)
#else
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define MMFAST_CUDA_LIBRARY(m) TORCH_LIBRARY_IMPL(mmfast, CUDA, m)
#endif

namespace mmfast {

// Makes the device of `tensor` current while it lives; kernels go to `stream()`, the current one of that device.
// Autocast rests meanwhile: an op is asked for its result in the types it was given.
class DeviceScope {
 public:
#ifdef MMFAST_EMULATED
  explicit DeviceScope(const at::Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
#else
  explicit DeviceScope(const at::Tensor& tensor) : device_(tensor.device()) {}
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(); }
#endif

 private:
#ifndef MMFAST_EMULATED
  c10::cuda::CUDAGuard device_;
#endif
  c10::impl::ExcludeDispatchKeyGuard autocast_{c10::autocast_dispatch_keyset};
};

inline void check(cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error), " (", static_cast<int>(error),
              "); set CUDA_LAUNCH_BLOCKING=1 to see where");
}

inline void check_device(const std::optional<at::Tensor>& t, const at::Tensor& like, const char* op, const char* name) {
  if (t) check_device(*t, like, op, name);
}

// check_ids of ../check.h for ids on the device. It does not wait: a wild id is named on stdout by the device, which
// then refuses all further work, as after a failed assertion of torch. Under CUDA_LAUNCH_BLOCKING=1 it waits and throws
// the sentence that the CPU would.
void check_device_ids(const at::Tensor& ids, int64_t size, const char* op, const char* name, cudaStream_t stream);

// `rows`, contiguous: int64 ids in [0, size), sorted and unique; checked like the ids above.
at::Tensor checked_device_rows(const at::Tensor& rows, int64_t size, const char* op, cudaStream_t stream,
                               const char* advice = "take them from compact_ids");

// check_number of ../check.h for a tensor of one int64 on the device; checked like the ids above.
void check_device_number(const at::Tensor& number, int64_t least, int64_t most, const char* op, const char* name,
                         cudaStream_t stream);

Label label_of(const char* op, const char* name);

// The same for any check: a kernel of device_check.h, and a host function that reads the values and throws.
void check_on_device(const std::function<cudaError_t()>& on_device, const std::function<void()>& on_host);

}  // namespace mmfast
