// A copy of numbers: a thread per number.
#include "template_op.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void copy_kernel(const T* x, int64_t count, T* out) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    out[i] = x[i];
  }
}

}  // namespace

template <typename T>
cudaError_t template_op_forward(const T* x, int64_t count, T* out, cudaStream_t stream) {
  MMFAST_LAUNCH(copy_kernel<T>, blocks_for(count, kThreads), kThreads, 0, stream, x, count, out);
  return cudaGetLastError();
}

template cudaError_t template_op_forward(const float*, int64_t, float*, cudaStream_t);
template cudaError_t template_op_forward(const double*, int64_t, double*, cudaStream_t);

}  // namespace mmfast
