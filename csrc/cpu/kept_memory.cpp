// glibc gives large blocks back to the system when they are freed, and every training step then pays page faults for
// the same tables again: more than the products that fill them. It can be told to keep them, but not in the way that
// torch asks for them: an aligned block needs a larger hole than the one that a block of its size has left, so where a
// small tensor outlives each of many large ones, the process grows by every one of them. Here blocks are asked for
// unaligned, a line larger, and aligned afterwards: they fit into the holes of their like.
#include "kept_memory.h"

#include <c10/core/CPUAllocator.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>

#if defined(__GLIBC__)
#include <malloc.h>
#include <sys/mman.h>
#endif

namespace mmfast {

#if defined(__GLIBC__)
namespace {

constexpr size_t kLine = 64;  // alignment of a tensor; the block's own address lies in front of it
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHuge = size_t{32} << 20;  // tensors from here on outgrow the caches and ask for huge pages

uintptr_t round_up(uintptr_t address, size_t step) { return (address + step - 1) / step * step; }

void*& block_of(void* tensor) { return static_cast<void**>(tensor)[-1]; }

void ask_for_huge_pages(void* tensor, size_t bytes) {
  const uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(tensor), kHugePage);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(tensor) + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: nothing depends on it
}

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* tensor = nullptr;
    if (bytes > 0) {
      void* block = bytes < std::numeric_limits<size_t>::max() - kLine ? std::malloc(bytes + kLine) : nullptr;
      if (!block) return c10::GetDefaultCPUAllocator()->allocate(bytes);  // which says what there was too little of
      // malloc aligns to 16 bytes: there is room in front for the address.
      tensor = reinterpret_cast<void*>(round_up(reinterpret_cast<uintptr_t>(block) + 1, kLine));
      block_of(tensor) = block;
      if (bytes >= kHuge) ask_for_huge_pages(tensor, bytes);
      c10::profiledCPUMemoryReporter().New(tensor, bytes);
    }
    return {tensor, tensor, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

 private:
  static void release(void* tensor) {
    if (!tensor) return;
    c10::profiledCPUMemoryReporter().Delete(tensor);
    std::free(block_of(tensor));
  }
};

}  // namespace

void keep_freed_memory() {
  static Allocator* const allocator = new Allocator;  // never destroyed: torch holds it to the end
  constexpr int kNever = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kNever);
  mallopt(M_TRIM_THRESHOLD, kNever);
  c10::SetCPUAllocator(allocator, 1);
}

void release_freed_memory() { malloc_trim(0); }

#else

void keep_freed_memory() {}
void release_freed_memory() {}

#endif

}  // namespace mmfast
