// The kernels round the products of rank: train items hidden, places turned into items, hits looked up.
#include <cstdio>
#include <limits>

#include "rank.h"

namespace mmfast {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = kWarps * kWarp;

template <typename T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

// The place of `id` in the ascending ids [first, last), or -1.
__device__ int64_t find(const int32_t* ids, int64_t first, int64_t last, int32_t id) {
  const int64_t end = last;
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (ids[middle] < id) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first < end && ids[first] == id ? first : -1;
}

__global__ void check_kernel(ItemLists lists, int64_t num_rows, int64_t num_entries, int64_t num_items, Label label) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x; r < num_rows; r += step) {
    const int64_t begin = lists.ptr[r], end = lists.ptr[r + 1];
    bool good = begin >= 0 && begin <= end && end <= num_entries;
    for (int64_t e = begin; good && e < end; ++e) {
      const int32_t item = lists.items[e];
      good = item >= 0 && item < num_items && (e == begin || lists.items[e - 1] <= item);
    }
    if (!good) {
      printf("%s: %s of user row %lld is no ascending list of items below %lld\n", label.op, label.name,
             static_cast<long long>(r), static_cast<long long>(num_items));
      __trap();
    }
  }
}

template <typename T>
__global__ void hide_kernel(T* scores, int64_t rows, int64_t columns, int64_t first, ItemLists hidden, Pool pool) {
  const int64_t step = int64_t{gridDim.x} * kWarps;
  for (int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; r < rows; r += step) {
    for (int64_t e = hidden.ptr[r] + threadIdx.x % kWarp; e < hidden.ptr[r + 1]; e += kWarp) {
      const int32_t item = hidden.items[e];
      const int64_t place = pool.ids ? find(pool.ids, 0, pool.size, item) : item;
      if (place >= first && place < first + columns) scores[r * columns + place - first] = kNothing<T>;
    }
  }
}

__global__ void finish_kernel(int32_t* top, bool* hits, int64_t rows, int64_t k, ItemLists targets, Pool pool) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * k; i += step) {
    const int64_t row = i / k;
    if (top[i] >= 0 && pool.ids) top[i] = pool.ids[top[i]];
    hits[i] = top[i] >= 0 && find(targets.items, targets.ptr[row], targets.ptr[row + 1], top[i]) >= 0;
  }
}

}  // namespace

cudaError_t rank_check_lists(const ItemLists& lists, int64_t num_rows, int64_t num_entries, int64_t num_items,
                             const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(check_kernel, blocks_for(num_rows, kThreads), kThreads, 0, stream, lists, num_rows, num_entries,
                num_items, label);
  return cudaGetLastError();
}

template <typename T>
cudaError_t rank_hide(T* scores, int64_t rows, int64_t columns, int64_t first, const ItemLists& hidden,
                      const Pool& pool, cudaStream_t stream) {
  MMFAST_LAUNCH(hide_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, scores, rows, columns, first, hidden,
                pool);
  return cudaGetLastError();
}

cudaError_t rank_finish(int32_t* top, bool* hits, int64_t rows, int64_t k, const ItemLists& targets, const Pool& pool,
                        cudaStream_t stream) {
  MMFAST_LAUNCH(finish_kernel, blocks_for(rows * k, kThreads), kThreads, 0, stream, top, hits, rows, k, targets, pool);
  return cudaGetLastError();
}

template cudaError_t rank_hide(float*, int64_t, int64_t, int64_t, const ItemLists&, const Pool&, cudaStream_t);
template cudaError_t rank_hide(double*, int64_t, int64_t, int64_t, const ItemLists&, const Pool&, cudaStream_t);

}  // namespace mmfast
