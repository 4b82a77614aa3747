// Checks of the lists of edges that lie on the device.
#include "edges.h"

#include <algorithm>

#include "device_check.h"

namespace mmfast {

at::Tensor checked_device_ptr(const at::Tensor& ptr, int64_t entries, const at::Tensor& like, const char* op,
                              const char* name, cudaStream_t stream) {
  check_dim(ptr, 1, op, name);
  check_dtype(ptr, at::kLong, op, name);
  TORCH_CHECK(ptr.numel() > 0, op, ": ", name, " is empty; wanted one number more than rows");
  check_device(ptr, like, op, name);
  at::Tensor dense = ptr.contiguous();
  check_on_device(
      [&] {
        return device_check_csr(dense.const_data_ptr<int64_t>(), dense.numel() - 1, nullptr, entries, 0,
                                label_of(op, name), stream);
      },
      [&] {
        const at::Tensor host = dense.cpu();
        const int64_t *p = host.const_data_ptr<int64_t>(), *last = p + host.numel() - 1;
        TORCH_CHECK(*p == 0 && *last == entries && std::is_sorted(p, last + 1), op, ": ", name, " runs from ", *p,
                    " to ", *last, "; wanted from 0 up to the ", entries, " entries, never falling");
      });
  return dense;
}

at::Tensor checked_device_list(const at::Tensor& ids, int64_t entries, int64_t size, const at::Tensor& like,
                               const char* op, const char* name, cudaStream_t stream) {
  check_dim(ids, 1, op, name);
  check_size(ids, 0, entries, op, name);
  check_dtype(ids, at::kInt, op, name);
  check_device(ids, like, op, name);
  at::Tensor dense = ids.contiguous();
  check_device_ids(dense, size, op, name, stream);
  return dense;
}

}  // namespace mmfast
