// u . (p - n) of every triple: a warp per triple.
#include "rows.h"
#include "triple_margins.h"

namespace mmfast {
namespace {

template <typename T>
__global__ void margins_kernel(Triples<T> t, T* margins) {
  for (int64_t b = first_row(); b < t.count; b += row_step()) {
    const T *u = t.users + t.user[b] * t.dim, *p = t.items + t.pos[b] * t.dim, *n = t.items + t.neg[b] * t.dim;
    T sum = 0;
    for (int64_t d = lane_of(); d < t.dim; d += kWarp) sum += u[d] * (p[d] - n[d]);
    sum = warp_sum(sum);
    if (lane_of() == 0) margins[b] = sum;
  }
}

}  // namespace

template <typename T>
cudaError_t triple_margins_forward(const Triples<T>& t, T* margins, cudaStream_t stream) {
  MMFAST_LAUNCH(margins_kernel<T>, blocks_for(t.count, kRowWarps), kRowThreads, 0, stream, t, margins);
  return cudaGetLastError();
}

template cudaError_t triple_margins_forward(const Triples<float>&, float*, cudaStream_t);
template cudaError_t triple_margins_forward(const Triples<double>&, double*, cudaStream_t);

}  // namespace mmfast
