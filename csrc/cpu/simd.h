// SIMD without intrinsics: GCC vector types in always-inline templates, called by functions that are compiled once per
// x86 level and chosen when the library is loaded. Elsewhere (clang, aarch64), and under a sanitizer, where no
// resolver can run that early, they are built once for the target's own level.
#pragma once
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MMFAST_WIDE __attribute__((target("arch=x86-64-v4")))
#endif
#if defined(MMFAST_WIDE) && !defined(__SANITIZE_ADDRESS__)
#define MMFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MMFAST_CLONES
#endif
#define MMFAST_INLINE inline __attribute__((always_inline))

namespace mmfast {

#ifdef MMFAST_WIDE
inline bool has_wide() { return __builtin_cpu_supports("x86-64-v4"); }
#endif

// A vector of T. Vectors are passed by reference only: by value their ABI would differ between the clones. Those of
// 64 bytes are for functions that are MMFAST_WIDE and called where has_wide(): elsewhere they would live in memory.
template <typename T, int kBytes = 32>
struct Simd {
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef T Unaligned __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
  static constexpr int kLanes = kBytes / sizeof(T);

  static MMFAST_INLINE const Unaligned& at(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static MMFAST_INLINE Unaligned& at(T* p) { return *reinterpret_cast<Unaligned*>(p); }
};

}  // namespace mmfast
