// The rows of products over float16 tables, compiled on x86 for CPUs with F16C: the compiler does not find its
// conversions in vector code by itself, and clones of one function cannot differ in their source.
#include "product.h"
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define MMFAST_F16C
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#endif
#include "product_rows.h"

namespace mmfast {

void multiply_range(const Product<c10::Half>& p, int64_t first, int64_t last) { multiply_rows(p, first, last); }
void multiply_range(const Product<c10::Half, float>& p, int64_t first, int64_t last) { multiply_rows(p, first, last); }

#if defined(MMFAST_F16C)
#pragma GCC pop_options
bool has_half() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"); }
#else
bool has_half() { return true; }
#endif

}  // namespace mmfast
