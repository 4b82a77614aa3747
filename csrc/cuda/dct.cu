// Reordering and rotation round the real FFT of the cosine transforms. Every kernel moves tiles of 32 sequences by 32
// samples through shared memory: buffers hold a sequence together, columns of a matrix lie side by side.
#include "dct.h"

namespace mmfast {
namespace {

constexpr int kTile = 32;
constexpr int kThreads = 256;
constexpr int kStep = kThreads / kTile;

__device__ int64_t place(const DctLines& lines, int64_t s, int64_t n) {
  const int64_t sequence = lines.first + s;
  return (sequence / lines.inner * lines.size + n) * lines.inner + sequence % lines.inner;
}

// The sample that stands at m.
__device__ int64_t sample(const DctLines& lines, int64_t m) {
  return 2 * m < lines.size ? 2 * m : 2 * (lines.size - 1 - m) + 1;
}

template <typename T>
struct Complex {
  T re, im;
};

// Bodies: read(s, j) takes a value of sequence s, j < width(), from its source, write(s, j, value) puts it to its
// target. kToBuffer: from the matrix to the buffer; else back.
template <typename T, bool kTo>
struct Samples {
  using Value = T;
  static constexpr bool kToBuffer = kTo;
  const T* from;
  DctLines lines;
  T* to;
  __host__ __device__ int64_t width() const { return lines.size; }
  __device__ int64_t in_matrix(int64_t s, int64_t m) const { return place(lines, s, sample(lines, m)); }
  __device__ int64_t in_buffer(int64_t s, int64_t m) const { return s * lines.size + m; }
  __device__ T read(int64_t s, int64_t m) const { return from[kTo ? in_matrix(s, m) : in_buffer(s, m)]; }
  __device__ void write(int64_t s, int64_t m, T value) const { to[kTo ? in_buffer(s, m) : in_matrix(s, m)] = value; }
};

template <typename T>
struct Rotate {
  using Value = Complex<T>;
  static constexpr bool kToBuffer = false;
  const T* spectrum;
  const T* rotation;
  DctLines lines;
  T* y;
  __host__ __device__ int64_t width() const { return lines.size / 2 + 1; }
  __device__ Value read(int64_t s, int64_t k) const {  // y_k and y_{N-k}
    const T *v = spectrum + 2 * (s * width() + k), *w = rotation + 2 * k;
    return {w[0] * v[0] + w[1] * v[1], w[1] * v[0] - w[0] * v[1]};
  }
  __device__ void write(int64_t s, int64_t k, Value value) const {
    y[place(lines, s, k)] = value.re;
    if (k > 0 && 2 * k != lines.size) y[place(lines, s, lines.size - k)] = value.im;
  }
};

template <typename T>
struct RotateBack {
  using Value = Complex<T>;
  static constexpr bool kToBuffer = true;
  const T* y;
  const T* rotation;
  DctLines lines;
  T* spectrum;
  __host__ __device__ int64_t width() const { return lines.size / 2 + 1; }
  __device__ Value read(int64_t s, int64_t k) const {
    const T scale = static_cast<T>(lines.size) / (k ? 2 : 1);  // c_k scale = sqrt(N/2), for k = 0 sqrt(N)
    const T c = scale * rotation[2 * k], sine = scale * rotation[2 * k + 1];
    const T a = y[place(lines, s, k)], b = k ? y[place(lines, s, lines.size - k)] : T(0);
    return {c * a + sine * b, sine * a - c * b};
  }
  __device__ void write(int64_t s, int64_t k, Value value) const {
    T* v = spectrum + 2 * (s * width() + k);
    v[0] = value.re, v[1] = value.im;
  }
};

// columns: neighbouring threads take neighbouring sequences on the side of the matrix, else neighbouring samples;
// always samples on the side of the buffer.
template <typename Body>
__global__ void tile_kernel(Body body, bool columns) {
  __shared__ typename Body::Value tile[kTile][kTile + 1];
  const int lane = threadIdx.x % kTile, row = threadIdx.x / kTile;
  const int64_t width = body.width(), count = body.lines.count, across = (width + kTile - 1) / kTile;
  const int64_t tiles = (count + kTile - 1) / kTile * across;
  const bool read_columns = Body::kToBuffer && columns, write_columns = !Body::kToBuffer && columns;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t s0 = t / across * kTile, j0 = t % across * kTile;
    for (int i = row; i < kTile; i += kStep) {
      const int s = read_columns ? lane : i, j = read_columns ? i : lane;
      if (s0 + s < count && j0 + j < width) tile[s][j] = body.read(s0 + s, j0 + j);
    }
    __syncthreads();
    for (int i = row; i < kTile; i += kStep) {
      const int s = write_columns ? lane : i, j = write_columns ? i : lane;
      if (s0 + s < count && j0 + j < width) body.write(s0 + s, j0 + j, tile[s][j]);
    }
    __syncthreads();
  }
}

template <typename Body>
cudaError_t launch(const Body& body, cudaStream_t stream) {
  const int64_t tiles = (body.lines.count + kTile - 1) / kTile * ((body.width() + kTile - 1) / kTile);
  MMFAST_LAUNCH(tile_kernel<Body>, blocks_for(tiles, 1), kThreads, 0, stream, body, body.lines.inner > 1);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t dct_reorder(const T* x, DctLines lines, T* v, cudaStream_t stream) {
  return launch(Samples<T, true>{x, lines, v}, stream);
}

template <typename T>
cudaError_t dct_rotate(const T* spectrum, const T* rotation, DctLines lines, T* y, cudaStream_t stream) {
  return launch(Rotate<T>{spectrum, rotation, lines, y}, stream);
}

template <typename T>
cudaError_t dct_rotate_back(const T* y, const T* rotation, DctLines lines, T* spectrum, cudaStream_t stream) {
  return launch(RotateBack<T>{y, rotation, lines, spectrum}, stream);
}

template <typename T>
cudaError_t dct_restore(const T* v, DctLines lines, T* x, cudaStream_t stream) {
  return launch(Samples<T, false>{v, lines, x}, stream);
}

#define MMFAST_INSTANTIATE(T)                                                           \
  template cudaError_t dct_reorder(const T*, DctLines, T*, cudaStream_t);               \
  template cudaError_t dct_rotate(const T*, const T*, DctLines, T*, cudaStream_t);      \
  template cudaError_t dct_rotate_back(const T*, const T*, DctLines, T*, cudaStream_t); \
  template cudaError_t dct_restore(const T*, DctLines, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
