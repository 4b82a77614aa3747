// Large result tables on large pages.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mmfast {

// An uninitialised tensor. Memory fresh from the system is asked for in pages of 2 MiB: the first writes to a table of
// 65 MB in pages of 4 KiB take as long as the product that fills it.
inline at::Tensor empty_table(at::IntArrayRef sizes, const at::TensorOptions& options) {
  at::Tensor table = at::empty(sizes, options);
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t data = reinterpret_cast<uintptr_t>(table.data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + table.nbytes()) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: refusal is no error
#endif
  return table;
}

}  // namespace mmfast
