// Attention over the entries of every row: numbers per entry are kept, vectors per entry never. Gradients of k and v
// are summed by column, in the order of the entries.
#include "edge_attention.h"
#include "team.h"

namespace mmfast {
namespace {

template <typename T>
__device__ int64_t source(const Attention<T>& a, int64_t e) {
  return a.cols[e] + (a.choice && a.choice[e] ? a.num_cols : 0);
}

// out[e] = factor <x, table[row(e)]> + (more ? more[e] : 0) for begin <= e < end; a warp per entry.
template <int W, typename T, typename Row>
__device__ void dot_rows(const Team<W>& team, int64_t begin, int64_t end, Row row, const T* __restrict__ table,
                         int64_t dim, const T* __restrict__ x, T factor, const T* __restrict__ more,
                         T* __restrict__ out) {
#pragma unroll 4
  for (int64_t e = begin + team.warp; e < end; e += W) {
    const T* y = table + row(e) * dim;
    T sum = 0;
    for (int64_t d = team.lane(); d < dim; d += kWarp) sum += x[d] * y[d];
    sum = warp_sum(sum);
    if (team.lane() == 0) out[e] = factor * sum + (more ? more[e] : T(0));
  }
}

// out [dim] = the sum over begin <= e < end of weight(e) table[row(e)], where taken(e).
template <int W, typename T, typename Taken, typename Weight, typename Row>
__device__ void add_rows(const Team<W>& team, int64_t begin, int64_t end, Taken taken, Weight weight, Row row,
                         const T* __restrict__ table, int64_t dim, T* __restrict__ out) {
  for (int64_t first = team.lane(); first - team.lane() < dim; first += 2 * kWarp) {
    T sum[2] = {};
#pragma unroll 4
    for (int64_t e = begin + team.warp; e < end; e += W) {
      if (!taken(e)) continue;
      const T* y = table + row(e) * dim;
      const T w = weight(e);
      if (first < dim) sum[0] += w * y[first];
      if (first + kWarp < dim) sum[1] += w * y[first + kWarp];
    }
    for (int i = 0; i < 2; ++i) {
      if (W > 1) {  // the warps' sums, in their order
        __shared__ T parts[kTeamWarps][kWarp];
        __syncthreads();
        parts[team.warp][team.lane()] = sum[i];
        __syncthreads();
        sum[i] = 0;
        for (int w = 0; w < W; ++w) sum[i] += parts[w][team.lane()];
      }
      if (team.warp == 0 && first + i * kWarp < dim) out[first + i * kWarp] = sum[i];
    }
  }
}

struct All {
  __device__ bool operator()(int64_t) const { return true; }
};

template <int W, typename T>
__global__ void forward_kernel(Attention<T> a) {
  const Team<W> team;
  const auto row = [&](int64_t e) { return source(a, e); };
  for (int64_t r = team.first; r < a.num_rows; r += team.step) {
    const int64_t begin = a.ptr[r], end = a.ptr[r + 1];
    if (!team.takes(end - begin)) continue;
    const T* none = nullptr;
    dot_rows(team, begin, end, row, a.k, a.dim, a.q + r * a.dim, a.scale, none, a.alpha);
    team.sync();
    if (begin < end) team_softmax(team, a.alpha + begin, end - begin, 1);
    team.sync();
    add_rows(team, begin, end, All(), [&](int64_t e) { return a.alpha[e]; }, row, a.v, a.dim_v, a.out + r * a.dim_v);
  }
}

// slope_e = scale alpha_e (d_e - sum_row alpha d), d_e = <grad_out_row, v_e> + grad_alpha_e; grad_q of the rows.
template <int W, typename T>
__global__ void rows_backward_kernel(Attention<T> a) {
  const Team<W> team;
  const auto row = [&](int64_t e) { return source(a, e); };
  for (int64_t r = team.first; r < a.num_rows; r += team.step) {
    const int64_t begin = a.ptr[r], end = a.ptr[r + 1];
    if (!team.takes(end - begin)) continue;
    const T* grad = a.grad_out ? a.grad_out + r * a.dim_v : nullptr;
    dot_rows(team, begin, end, row, a.v, grad ? a.dim_v : 0, grad, T(1), a.grad_alpha, a.slope);
    team.sync();
    T mean = 0;
    for (int64_t e = begin + team.member; e < end; e += W * kWarp) mean += a.weights[e] * a.slope[e];
    mean = team.sum(mean);
    for (int64_t e = begin + team.member; e < end; e += W * kWarp) {
      a.slope[e] = a.scale * a.weights[e] * (a.slope[e] - mean);
    }
    team.sync();
    add_rows(team, begin, end, All(), [&](int64_t e) { return a.slope[e]; }, row, a.k, a.dim, a.grad_q + r * a.dim);
  }
}

// grad_k and grad_v of row `c` of each half, from the entries that chose the half.
template <int W, typename T>
__global__ void columns_backward_kernel(Attention<T> a) {
  const Team<W> team;
  const int64_t halves = a.choice ? 2 : 1;
  const auto row = [&](int64_t t) { return int64_t{a.rows_t[t]}; };
  for (int64_t i = team.first; i < a.num_cols * halves; i += team.step) {
    const int64_t c = i % a.num_cols, begin = a.ptr_t[c], end = a.ptr_t[c + 1];
    const bool half = i >= a.num_cols;
    if (!team.takes(end - begin)) continue;
    const auto taken = [&](int64_t t) { return !a.choice || a.choice[a.edges_t[t]] == half; };
    add_rows(
        team, begin, end, taken, [&](int64_t t) { return a.slope[a.edges_t[t]]; }, row, a.q, a.dim,
        a.grad_k + i * a.dim);
    const auto weight = [&](int64_t t) { return a.weights[a.edges_t[t]]; };
    add_rows(team, begin, a.grad_out ? end : begin, taken, weight, row, a.grad_out, a.dim_v, a.grad_v + i * a.dim_v);
  }
}

}  // namespace

template <typename T>
cudaError_t edge_attention_forward(const Attention<T>& a, cudaStream_t stream) {
  const int64_t blocks = blocks_for(a.num_rows, kTeamWarps), long_blocks = blocks_for(a.num_rows, kTeamThreads);
  MMFAST_LAUNCH((forward_kernel<1, T>), blocks, kTeamThreads, 0, stream, a);
  MMFAST_LAUNCH((forward_kernel<kTeamWarps, T>), long_blocks, kTeamThreads, 0, stream, a);
  return cudaGetLastError();
}

template <typename T>
cudaError_t edge_attention_backward(const Attention<T>& a, cudaStream_t stream) {
  const int64_t blocks = blocks_for(a.num_rows, kTeamWarps), long_blocks = blocks_for(a.num_rows, kTeamThreads);
  MMFAST_LAUNCH((rows_backward_kernel<1, T>), blocks, kTeamThreads, 0, stream, a);
  MMFAST_LAUNCH((rows_backward_kernel<kTeamWarps, T>), long_blocks, kTeamThreads, 0, stream, a);
  const int64_t columns = a.num_cols * (a.choice ? 2 : 1);
  MMFAST_LAUNCH((columns_backward_kernel<1, T>), blocks_for(columns, kTeamWarps), kTeamThreads, 0, stream, a);
  MMFAST_LAUNCH((columns_backward_kernel<kTeamWarps, T>), blocks_for(columns, kTeamThreads), kTeamThreads, 0, stream,
                a);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                     \
  template cudaError_t edge_attention_forward(const Attention<T>&, cudaStream_t); \
  template cudaError_t edge_attention_backward(const Attention<T>&, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
