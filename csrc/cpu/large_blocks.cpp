// Freed memory of large CPU tensors is kept and handed out again. The C library gives large blocks back to the system,
// and every training step then pays page faults for the same tables: more than the products that fill them. Told to
// keep them (mallopt), glibc 2.36 has another fault: an aligned block needs a hole larger than the block that left it,
// so where a small tensor outlives each of many large ones, the process grows by every one of them.
#include "large_blocks.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace mmfast {

#if defined(__linux__)
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kLarge = size_t{128} << 10;  // smaller blocks are the C library's, which keeps those itself
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHuge = size_t{32} << 20;  // blocks from here on outgrow the caches and ask for huge pages

// Few sizes, so that a freed block fits the next tensor of about its size. A tail that is not touched takes no memory.
size_t rounded(size_t bytes) {
  const size_t step = std::max(kPage, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

// A quarter more than is asked for: what a block may be larger than the tensor in it, and what is mapped in all than
// what was in use at the peak.
size_t with_slack(size_t bytes) { return bytes + bytes / 4; }

// Returns pages of zeros, null where the system has none left.
void* map_pages(size_t size) {
  const bool huge = size >= kHuge;
  const size_t asked = huge ? size + kHugePage : size;
  void* const found = mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  if (!huge) return found;
  char* const begin = static_cast<char*>(found);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before) munmap(begin, before);
  munmap(begin + before + size, kHugePage - before);
  madvise(begin + before, size, MADV_HUGEPAGE);  // a wish: without huge pages the block is as good
  return begin + before;
}

class LargeBlocks final : public c10::Allocator {
 public:
  static LargeBlocks& instance() {
    static LargeBlocks* const blocks = new LargeBlocks;  // never destroyed: tensors may be freed after it would be
    return *blocks;
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes >= kLarge ? take(rounded(bytes)) : nullptr;
    if (block) {
      c10::profiledCPUMemoryReporter().New(block, bytes);
    } else {
      block = library_.allocate(bytes).release_context();  // which throws, with the usual words, where there is none
    }
    return {block, block, &free_block, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

  size_t release_all() {
    const std::lock_guard lock(mutex_);
    return release(mapped_);
  }

 private:
  struct Kept {
    void* block;
    uint64_t freed;  // the number of blocks that had been freed before
  };

  LargeBlocks() : library_(*c10::GetDefaultCPUAllocator()) {
    // A process that is forked must not find the lock held by a thread that it does not have.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
  }

  static void free_block(void* block) {
    if (!instance().keep(block)) instance().library_.raw_deleter()(block);
  }

  void* take(size_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.lower_bound(size);
    void* block;
    if (found != kept_.end() && found->first <= with_slack(size)) {
      size = found->first;
      block = found->second.block;
      kept_.erase(found);
    } else {
      const size_t wanted = mapped_ + size, most = with_slack(std::max(peak_, in_use_ + size));
      if (wanted > most) release(wanted - most);
      block = map_pages(size);
      if (!block && release(mapped_) > 0) block = map_pages(size);
      if (!block) return nullptr;
      mapped_ += size;
    }
    used_.emplace(block, size);
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    return block;
  }

  // False where the block is none of these.
  bool keep(void* block) {
    if (reinterpret_cast<uintptr_t>(block) % kPage != 0) return false;
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end()) return false;
    c10::profiledCPUMemoryReporter().Delete(block);
    in_use_ -= found->second;
    // In front of its like: the last one freed, which the caches may still hold, is taken first.
    kept_.emplace_hint(kept_.lower_bound(found->second), found->second, Kept{block, freed_++});
    used_.erase(found);
    return true;
  }

  // Unmaps kept blocks, the longest unused first, until they are `bytes`; returns how many they were.
  size_t release(size_t bytes) {
    size_t released = 0;
    while (released < bytes && !kept_.empty()) {
      const auto oldest = std::min_element(
          kept_.begin(), kept_.end(), [](const auto& a, const auto& b) { return a.second.freed < b.second.freed; });
      munmap(oldest->second.block, oldest->first);
      released += oldest->first;
      kept_.erase(oldest);
    }
    mapped_ -= released;
    return released;
  }

  c10::Allocator& library_;
  std::mutex mutex_;
  std::unordered_map<void*, size_t> used_;
  std::multimap<size_t, Kept> kept_;
  size_t in_use_ = 0, peak_ = 0, mapped_ = 0;
  uint64_t freed_ = 0;
};

}  // namespace

bool keep_large_blocks() {
  c10::SetCPUAllocator(&LargeBlocks::instance(), 1);
  return true;
}

size_t release_large_blocks() { return LargeBlocks::instance().release_all(); }

#else

bool keep_large_blocks() { return false; }
size_t release_large_blocks() { return 0; }

#endif

}  // namespace mmfast
