// u . (p - n) of every triple: a warp per triple.
#include "rows.h"
#include "triple_margins.h"

namespace mmfast {
namespace {

template <typename T>
__global__ void margins_kernel(const T* users, const T* items, const int64_t* user, const int64_t* pos,
                               const int64_t* neg, int64_t count, int64_t dim, T* margins) {
  for (int64_t b = first_row(); b < count; b += row_step()) {
    const T *u = users + user[b] * dim, *p = items + pos[b] * dim, *n = items + neg[b] * dim;
    T sum = 0;
    for (int64_t d = lane_of(); d < dim; d += kWarp) sum += u[d] * (p[d] - n[d]);
    sum = warp_sum(sum);
    if (lane_of() == 0) margins[b] = sum;
  }
}

}  // namespace

template <typename T>
cudaError_t triple_margins_forward(const T* users, const T* items, const int64_t* user, const int64_t* pos,
                                   const int64_t* neg, int64_t count, int64_t dim, T* margins, cudaStream_t stream) {
  MMFAST_LAUNCH(margins_kernel<T>, blocks_for(count, kRowWarps), kRowThreads, 0, stream, users, items, user, pos, neg,
                count, dim, margins);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                                     \
  template cudaError_t triple_margins_forward(const T*, const T*, const int64_t*, const int64_t*, const int64_t*, \
                                              int64_t, int64_t, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
