// Cosine transforms on the device: all round the real FFT, which is the library's (cuFFT through torch).
#pragma once
#include "runtime.h"

namespace mmfast {

// Sequences [first, first + count) of `size` samples, `inner` of them side by side: sample n of sequence s lies at
// (s / inner * size + n) * inner + s % inner. inner = 1: the rows of a matrix; inner = its width: the columns.
struct DctLines {
  int64_t first, count, size, inner;
};

// v [count, size]: even samples forwards, then odd samples backwards (Makhoul).
template <typename T>
cudaError_t dct_reorder(const T* x, DctLines lines, T* v, cudaStream_t stream);

// y_k and y_{N-k} out of the spectrum V [count, size / 2 + 1, 2]; rotation [size / 2 + 1, 2] is
// c_k (cos, sin)(pi k / 2N), c_0 = sqrt(1/N), c_k = sqrt(2/N).
template <typename T>
cudaError_t dct_rotate(const T* spectrum, const T* rotation, DctLines lines, T* y, cudaStream_t stream);

// The inverses of the two.
template <typename T>
cudaError_t dct_rotate_back(const T* y, const T* rotation, DctLines lines, T* spectrum, cudaStream_t stream);
template <typename T>
cudaError_t dct_restore(const T* v, DctLines lines, T* x, cudaStream_t stream);

}  // namespace mmfast
