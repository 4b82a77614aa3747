// Draws of distinct users: a block per draw makes its attempts a block at a time, and the first that names a user
// counts.
#include <cstdio>

#include "../philox.h"
#include "sample_users.h"

namespace mmfast {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = kWarps * kWarp;
constexpr int64_t kWorkNumbers = int64_t{8} << 20;  // for all draws at a time
constexpr unsigned long long kNever = ~0ull;

__global__ void check_kernel(const int64_t* users, int64_t count, const int64_t* ptr, Label label) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t rows = ptr[users[i] + 1] - ptr[users[i]];
    if (rows < 1 || rows >= 0xffffffffll) {
      printf("%s: user %lld has %lld rows; wanted 1 to 2^32 - 2\n", label.op, static_cast<long long>(users[i]),
             static_cast<long long>(rows));
      __trap();
    }
  }
}

// What goes with the user of an entry.
struct PutRow {
  const int64_t* users;
  const int64_t* ptr;
  int64_t* out;

  __device__ void operator()(int64_t entry, uint32_t place, const Philox4& words) const {
    const int64_t begin = ptr[users[place]], end = ptr[users[place] + 1];
    out[entry] = begin + below(words.word[1], static_cast<uint32_t>(end - begin));
  }
};

struct PutTriple {
  const int64_t* users;
  uint32_t num_items;
  int64_t size;
  int64_t* out;

  __device__ void operator()(int64_t entry, uint32_t place, const Philox4& words) const {
    out[entry] = users[place];
    for (int side = 1; side < 3; ++side) out[side * size + entry] = below(words.word[side], num_items);
  }
};

// The number of threads of the block before this one that are `in`, and of all in *total. Has a barrier at both ends.
__device__ int rank_in_block(bool in, int* total) {
  __shared__ int counts[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint32_t lanes = warp_ballot(in);
  if (lane == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  int before = __popc(lanes & ((1u << lane) - 1)), sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += counts[w];
    sum += counts[w];
  }
  *total = sum;
  __syncthreads();
  return before;
}

// first[user] is the first attempt that names the user: the least number, whatever the order of the threads.
template <typename Put>
__global__ void draw_kernel(UserDraws d, unsigned long long* work, Put put) {
  unsigned long long* first = work + blockIdx.x * d.num_users;
  const bool distinct = d.num_entries <= d.num_users;
  for (int64_t s = blockIdx.x; s < d.num_draws; s += gridDim.x) {
    for (int64_t u = threadIdx.x; distinct && u < d.num_users; u += kThreads) first[u] = kNever;
    __syncthreads();
    int64_t done = 0;
    for (unsigned long long base = 0; done < d.num_entries; base += kThreads) {
      const unsigned long long attempt = base + threadIdx.x;
      const Philox4 words = philox(d.seed, attempt, d.first_draw + static_cast<uint64_t>(s));
      const uint32_t place = below(words.word[0], static_cast<uint32_t>(d.num_users));
      if (distinct) atomicMin(&first[place], attempt);
      __syncthreads();
      int total = 0;
      const bool counts = !distinct || first[place] == attempt;
      const int64_t b = done + rank_in_block(counts, &total);
      if (counts && b < d.num_entries) put(s * d.num_entries + b, place, words);
      done += total;
    }
    __syncthreads();
  }
}

template <typename Put>
cudaError_t draw(const UserDraws& draws, unsigned long long* work, const Put& put, cudaStream_t stream) {
  MMFAST_LAUNCH(draw_kernel<Put>, sample_users_at_once(draws), kThreads, 0, stream, draws, work, put);
  return cudaGetLastError();
}

}  // namespace

cudaError_t sample_users_check(const int64_t* users, int64_t count, const int64_t* ptr, const Label& label,
                               cudaStream_t stream) {
  MMFAST_LAUNCH(check_kernel, blocks_for(count, kThreads), kThreads, 0, stream, users, count, ptr, label);
  return cudaGetLastError();
}

int64_t sample_users_at_once(const UserDraws& draws) {
  const int64_t fit = std::max<int64_t>(1, kWorkNumbers / std::max<int64_t>(1, draws.num_users));
  return std::min(blocks_for(draws.num_draws, 1), fit);
}

cudaError_t sample_users_rows(const UserDraws& draws, const int64_t* ptr, unsigned long long* work, int64_t* rows,
                              cudaStream_t stream) {
  return draw(draws, work, PutRow{draws.users, ptr, rows}, stream);
}

cudaError_t sample_users_triples(const UserDraws& draws, int64_t num_items, unsigned long long* work, int64_t* triples,
                                 cudaStream_t stream) {
  const int64_t size = draws.num_draws * draws.num_entries;
  return draw(draws, work, PutTriple{draws.users, static_cast<uint32_t>(num_items), size, triples}, stream);
}

}  // namespace mmfast
