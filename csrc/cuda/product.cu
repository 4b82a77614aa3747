// Sparse products over tables. A row is summed by a group of lanes that together hold one row of the table, in the
// order of its entries; a long row is cut into chunks of a warp each, whose sums the last one to finish adds in order.
#include "pack.h"
#include "product.h"

namespace mmfast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kChunk = 256;  // entries; a row of more is long

struct Chunk {
  int64_t row;     // its place among the rows to compute
  int32_t number;  // among the chunks of the row, which lie side by side
  int32_t of;
};

// Lies in the workspace. `num_chunks` null: there are no long rows.
template <typename T>
struct Plan {
  unsigned* num_chunks = nullptr;
  int* finished = nullptr;  // chunks that are done, counted at the row's first chunk; 0 between products
  Chunk* chunks = nullptr;
  T* partials = nullptr;  // a row of sums per chunk
};

// A row of n > kChunk entries has at most n / kChunk + 1 < 2 n / kChunk chunks.
int64_t most_chunks(int64_t num_entries) { return num_entries > kChunk ? 2 * num_entries / kChunk : 0; }

template <typename T>
Plan<T> plan_in(void* workspace, int64_t num_entries) {
  if (!workspace) return {};
  const int64_t most = most_chunks(num_entries);
  char* p = static_cast<char*>(workspace);
  char* finished = p + 16;
  char* chunks = finished + (most + 3) / 4 * 4 * static_cast<int64_t>(sizeof(int));
  char* partials = chunks + most * static_cast<int64_t>(sizeof(Chunk));
  return {reinterpret_cast<unsigned*>(p), reinterpret_cast<int*>(finished), reinterpret_cast<Chunk*>(chunks),
          reinterpret_cast<T*>(partials)};
}

// A warp looks at 32 rows and writes the chunks of each long one together.
__global__ void plan_kernel(const int64_t* ptr, const int64_t* rows, int64_t count, Plan<float> plan) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp * kWarp; first < count;
       first += int64_t{gridDim.x} * kThreads) {
    const int64_t i = first + lane;
    int64_t degree = 0;
    if (i < count) {
      const int64_t node = rows ? rows[i] : i;
      degree = ptr[node + 1] - ptr[node];
    }
    const int mine = degree > kChunk ? static_cast<int>((degree + kChunk - 1) / kChunk) : 0;
    for (uint32_t left = warp_ballot(mine > 0); left != 0; left &= left - 1) {
      const int owner = __ffs(left) - 1;
      const int of = warp_broadcast(mine, owner);
      unsigned at = lane == owner ? atomicAdd(plan.num_chunks, static_cast<unsigned>(of)) : 0;
      at = warp_broadcast(at, owner);
      for (int number = lane; number < of; number += kWarp) plan.chunks[at + number] = {first + owner, number, of};
    }
  }
}

// The lanes of a warp as groups of G; a group holds columns [column(v), column(v) + E) of a row for v < V in each lane.
template <int E, int G, int V>
struct Lanes {
  static constexpr int kGroups = kWarp / G;
  static constexpr int64_t kWidth = int64_t{G} * V * E;
  int64_t group, member;

  __device__ Lanes() : group(threadIdx.x % kWarp / G), member(threadIdx.x % G) {}
  __device__ __forceinline__ int64_t column(int64_t first, int v) const { return first + (v * G + member) * E; }
  // The same, or the last columns of a row for a lane that has none, so that it may load without asking.
  __device__ __forceinline__ int64_t inside(int64_t first, int v, int64_t dim) const {
    return min(column(first, v), dim - E);
  }
};

template <typename T>
__device__ __forceinline__ T weight(const Graph<T>& graph, int64_t e, int64_t col) {
  const T value = graph.values ? __ldg(graph.values + e) : T(1);
  return graph.col_scale ? value * __ldg(graph.col_scale + col) : value;
}

// to[b] = from[(i + b) * step], or the last of the `count` numbers where there are no more: loads without branches.
template <int N, typename T>
__device__ __forceinline__ void load_some(const T* from, int i, int step, int count, T (&to)[N]) {
#pragma unroll
  for (int b = 0; b < N; ++b) to[b] = __ldg(from + min((i + b) * step, count - 1));
}

// Adds the rows of entries begin, begin + step, ... before end, at most kChunk of them. kBatch rows are on their way at
// once, with the columns of the next ones.
template <int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void gather(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes, int64_t begin,
                                       int64_t end, int step, int64_t first, Sum<In> (&sum)[V][E]) {
  using T = Sum<In>;
  constexpr int kBatch = V == 1 ? 4 : 2;
  if (begin >= end) return;
  const int count = static_cast<int>(end - begin);
  int32_t cols[kBatch], next[kBatch];
  load_some(p.graph.cols + begin, 0, step, count, cols);
  for (int i = 0; i * step < count; i += kBatch) {
    Pack<In, E> rows[kBatch][V];
    T values[kBatch], scales[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      values[b] = scales[b] = 1;
#pragma unroll
      for (int v = 0; v < V; ++v) rows[b][v].load(p.in + cols[b] * p.dim + lanes.inside(first, v, p.dim));
    }
    if (p.graph.values) load_some(p.graph.values + begin, i, step, count, values);
    if (p.graph.col_scale) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) scales[b] = __ldg(p.graph.col_scale + cols[b]);
    }
    load_some(p.graph.cols + begin, i + kBatch, step, count, next);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      cols[b] = next[b];
      if ((i + b) * step >= count) continue;
      const T weight = values[b] * scales[b];
#pragma unroll
      for (int v = 0; v < V; ++v) {
#pragma unroll
        for (int k = 0; k < E; ++k) sum[v][k] += weight * rows[b][v][k];
      }
    }
  }
}

// Adds the rows of those entries base + bit, for the bits of `hits`, that come `turn`-th of every `turns`.
template <int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void add_hits(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes, uint32_t hits,
                                         int64_t base, int turn, int turns, int64_t first, Sum<In> (&sum)[V][E]) {
  for (int number = 0; hits != 0; hits &= hits - 1, ++number) {
    if (number % turns != turn) continue;
    const int64_t e = base + __ffs(hits) - 1, col = __ldg(p.graph.cols + e);
    const int64_t row = __ldg(p.slot + col);
    const Sum<In> w = weight(p.graph, e, col);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t column = lanes.column(first, v);
      if (column >= p.dim) continue;
      Pack<In, E> x;
      x.load(p.in + row * p.dim + column);
#pragma unroll
      for (int i = 0; i < E; ++i) sum[v][i] += w * x[i];
    }
  }
}

template <typename In, typename Out>
__device__ __forceinline__ bool meets_a_row(const DeviceProduct<In, Out>& p, int64_t e, int64_t end) {
  return e < end && __ldg(p.slot + __ldg(p.graph.cols + e)) >= 0;
}

// out_i = alpha * (base + row_scale * sum) + extra, at the columns of this lane.
template <int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void finish(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes, int64_t i,
                                       int64_t node, int64_t first, const Sum<In> (&sum)[V][E]) {
  const Sum<In> scale = p.graph.row_scale ? p.alpha * __ldg(p.graph.row_scale + node) : p.alpha;
  const bool read = p.base || p.extra;  // without them there may be no slot for this row
  const int64_t own = read && p.slot ? p.slot[node] : node;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int64_t column = lanes.column(first, v);
    if (column >= p.dim) continue;
    Sum<In> value[E];
#pragma unroll
    for (int k = 0; k < E; ++k) value[k] = sum[v][k] * scale;
    Pack<In, E> other;
    if (p.base && own >= 0) {
      other.load(p.base + own * p.dim + column);
#pragma unroll
      for (int k = 0; k < E; ++k) value[k] += p.alpha * other[k];
    }
    if (p.extra && own >= 0) {
      other.load(p.extra + own * p.dim + column);
#pragma unroll
      for (int k = 0; k < E; ++k) value[k] += other[k];
    }
    store(p.out + i * p.dim + column, value);
  }
}

// A group's row i, or none where there is none left or it is long; the lanes of all groups stay together.
template <bool kSparse, int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void short_row(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes, int64_t i) {
  int64_t node = 0, begin = 0, end = 0;
  if (i < p.count) {
    node = p.rows ? p.rows[i] : i;
    begin = __ldg(p.graph.ptr + node);
    end = __ldg(p.graph.ptr + node + 1);
  }
  const bool mine = i < p.count && end - begin <= kChunk;
  if (!mine) end = begin;
  for (int64_t first = 0; first < p.dim; first += lanes.kWidth) {
    Sum<In> sum[V][E] = {};
    if constexpr (kSparse) {
      const int most = warp_max(static_cast<int>(end - begin));
      for (int64_t at = begin; at < begin + most; at += G) {
        const uint32_t hits = warp_ballot(meets_a_row(p, at + lanes.member, end)) >> (lanes.group * G);
        add_hits(p, lanes, G < kWarp ? hits & ((1u << (G % kWarp)) - 1) : hits, at, 0, 1, first, sum);
      }
    } else {
      gather(p, lanes, begin, end, 1, first, sum);
    }
    if (mine) finish(p, lanes, i, node, first, sum);
  }
}

// The sums of one chunk: groups take its entries in turn and are added up, so every group holds them.
template <bool kSparse, int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void sum_chunk(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes, int64_t begin,
                                          int64_t end, int64_t first, Sum<In> (&sum)[V][E]) {
  if constexpr (kSparse) {
    for (int64_t at = begin; at < end; at += kWarp) {
      const uint32_t hits = warp_ballot(meets_a_row(p, at + threadIdx.x % kWarp, end));
      add_hits(p, lanes, hits, at, static_cast<int>(lanes.group), lanes.kGroups, first, sum);
    }
  } else {
    gather(p, lanes, begin + lanes.group, end, lanes.kGroups, first, sum);
  }
#pragma unroll
  for (int mask = G; mask < kWarp; mask *= 2) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int k = 0; k < E; ++k) sum[v][k] += warp_xor(sum[v][k], mask);
    }
  }
}

// Adds the sums of a row's chunks, in their order, and writes the row.
template <int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void join_chunks(const DeviceProduct<In, Out>& p, const Lanes<E, G, V>& lanes,
                                            const Sum<In>* partials, const Chunk& chunk, int64_t node) {
  for (int64_t first = 0; first < p.dim; first += lanes.kWidth) {
    Sum<In> sum[V][E] = {};
#pragma unroll 4
    for (int c = 0; c < chunk.of; ++c) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int64_t column = lanes.column(first, v);
        if (column >= p.dim) continue;
#pragma unroll
        for (int k = 0; k < E; ++k) sum[v][k] += __ldcg(partials + c * p.dim + column + k);
      }
    }
    if (lanes.group == 0) finish(p, lanes, chunk.row, node, first, sum);
  }
}

// One chunk of a long row; whichever warp finishes the row's last chunk joins them all.
template <bool kSparse, int E, int G, int V, typename In, typename Out>
__device__ __forceinline__ void long_row(const DeviceProduct<In, Out>& p, const Plan<Sum<In>>& plan,
                                         const Lanes<E, G, V>& lanes, int64_t at) {
  const Chunk chunk = plan.chunks[at];
  const int64_t node = p.rows ? p.rows[chunk.row] : chunk.row;
  const int64_t begin = p.graph.ptr[node] + chunk.number * kChunk;
  const int64_t row_end = p.graph.ptr[node + 1], end = row_end < begin + kChunk ? row_end : begin + kChunk;
  for (int64_t first = 0; first < p.dim; first += lanes.kWidth) {
    Sum<In> sum[V][E] = {};
    sum_chunk<kSparse>(p, lanes, begin, end, first, sum);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t column = lanes.column(first, v);
      if (lanes.group == 0 && column < p.dim) store(plan.partials + at * p.dim + column, sum[v]);
    }
  }
  __threadfence();  // the sums of all lanes, before the count below
  __syncwarp();
  const int64_t row_first = at - chunk.number;
  int done = 0;
  if (threadIdx.x % kWarp == 0) done = atomicAdd(plan.finished + row_first, 1) + 1;
  if (warp_broadcast(done, 0) < chunk.of) return;
  __threadfence();
  if (threadIdx.x % kWarp == 0) plan.finished[row_first] = 0;
  join_chunks(p, lanes, plan.partials + row_first * p.dim, chunk, node);
}

// Chunks of long rows come first: they take longest.
template <bool kSparse, int E, int G, int V, typename In, typename Out>
__global__ void __launch_bounds__(kThreads) product_kernel(DeviceProduct<In, Out> p, Plan<Sum<In>> plan) {
  const Lanes<E, G, V> lanes;
  const int64_t num_chunks = plan.num_chunks ? static_cast<int64_t>(*plan.num_chunks) : 0;
  const int64_t num_units = num_chunks + (p.count + lanes.kGroups - 1) / lanes.kGroups;
  for (int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; unit < num_units;
       unit += int64_t{gridDim.x} * kWarps) {
    if (unit < num_chunks) {
      long_row<kSparse>(p, plan, lanes, unit);
    } else {
      short_row<kSparse>(p, lanes, (unit - num_chunks) * lanes.kGroups + lanes.group);
    }
  }
}

template <int E, int G, int V, typename In, typename Out>
void start(const DeviceProduct<In, Out>& p, void* workspace, cudaStream_t stream) {
  const Plan<Sum<In>> plan = plan_in<Sum<In>>(workspace, p.graph.num_entries);
  const int64_t groups = kWarp / G, units = (p.count + groups - 1) / groups;
  const int64_t blocks = blocks_for(units + (workspace ? most_chunks(p.graph.num_entries) / 2 : 0), kWarps);
  if (p.sparse_in) {
    MMFAST_LAUNCH((product_kernel<true, E, G, V, In, Out>), blocks, kThreads, 0, stream, p, plan);
  } else {
    MMFAST_LAUNCH((product_kernel<false, E, G, V, In, Out>), blocks, kThreads, 0, stream, p, plan);
  }
}

__global__ void slots_kernel(const int64_t* rows, int64_t count, int32_t* slot) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    slot[rows[i]] = static_cast<int32_t>(i);
  }
}

}  // namespace

int64_t product_workspace(int64_t num_entries, int64_t count, int64_t dim, int64_t sum_bytes) {
  const int64_t most = count > 0 ? most_chunks(num_entries) : 0;
  if (most == 0) return 0;
  return 16 + (most + 3) / 4 * 16 + most * static_cast<int64_t>(sizeof(Chunk)) + most * dim * sum_bytes;
}

cudaError_t plan_product(const int64_t* ptr, const int64_t* rows, int64_t count, int64_t num_entries, void* workspace,
                         cudaStream_t stream) {
  if (!workspace) return cudaSuccess;
  const Plan<float> plan = plan_in<float>(workspace, num_entries);
  const cudaError_t error = cudaMemsetAsync(
      workspace, 0, static_cast<size_t>(reinterpret_cast<char*>(plan.chunks) - static_cast<char*>(workspace)), stream);
  if (error != cudaSuccess) return error;
  MMFAST_LAUNCH(plan_kernel, blocks_for(count, kThreads), kThreads, 0, stream, ptr, rows, count, plan);
  return cudaGetLastError();
}

template <typename In, typename Out>
cudaError_t run_product(const DeviceProduct<In, Out>& p, void* workspace, cudaStream_t stream) {
  constexpr int kFull = 16 / sizeof(In);
  const bool whole =
      p.dim % kFull == 0 && aligned16(p.in) && aligned16(p.base) && aligned16(p.extra) && aligned16(p.out);
  if (p.count == 0 || p.dim == 0) return cudaSuccess;
  if (!whole) {
    start<1, 32, 2>(p, workspace, stream);
  } else if (p.dim <= 8 * kFull) {
    start<kFull, 8, 1>(p, workspace, stream);
  } else if (p.dim <= 16 * kFull) {
    start<kFull, 16, 1>(p, workspace, stream);
  } else if (p.dim <= 32 * kFull) {
    start<kFull, 32, 1>(p, workspace, stream);
  } else {
    start<kFull, 32, 2>(p, workspace, stream);
  }
  return cudaGetLastError();
}

template cudaError_t run_product(const DeviceProduct<float, float>&, void*, cudaStream_t);
template cudaError_t run_product(const DeviceProduct<double, double>&, void*, cudaStream_t);
template cudaError_t run_product(const DeviceProduct<Half, Half>&, void*, cudaStream_t);
template cudaError_t run_product(const DeviceProduct<Half, float>&, void*, cudaStream_t);
template cudaError_t run_product(const DeviceProduct<BFloat16, BFloat16>&, void*, cudaStream_t);
template cudaError_t run_product(const DeviceProduct<BFloat16, float>&, void*, cudaStream_t);

cudaError_t fill_slots(const int64_t* rows, int64_t count, int32_t* slot, cudaStream_t stream) {
  MMFAST_LAUNCH(slots_kernel, blocks_for(count, kThreads), kThreads, 0, stream, rows, count, slot);
  return cudaGetLastError();
}

}  // namespace mmfast
