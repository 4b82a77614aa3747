// A warp per row: scores above the worst of its list gather behind the list, and a full store is sorted as a whole.
#include <limits>

#include "topk.h"

namespace mmfast {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kLoads = 4;  // scores that a lane has under way
constexpr int kStep = kLoads * kWarp;
constexpr int64_t kRoom = 192;              // least slots behind the list
constexpr int64_t kSharedBytes = 48 << 10;  // what a block has without asking for more
constexpr int64_t kGlobalBlocks = 256;      // blocks at work where the slots lie in global memory

template <typename T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

template <typename T>
struct alignas(2 * sizeof(T)) Entry {
  T score;
  int32_t id;
};

template <typename T>
__device__ bool better(const Entry<T>& a, const Entry<T>& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// Bitonic: the best first. `size` is a power of two.
template <typename T>
__device__ void sort(Entry<T>* slots, int size, int lane) {
  for (int length = 2; length <= size; length *= 2) {
    for (int half = length / 2; half > 0; half /= 2) {
      for (int pair = lane; pair < size / 2; pair += kWarp) {
        const int i = 2 * pair - (pair & (half - 1));
        const Entry<T> a = slots[i], b = slots[i + half];
        const bool best_first = (i & length) == 0;
        if (better(b, a) == best_first) {
          slots[i] = b;
          slots[i + half] = a;
        }
      }
      __syncwarp();
    }
  }
}

// The list of one row in slots 0 .. size, and behind it `count` candidates; every lane holds the same numbers.
template <typename T>
struct Store {
  Entry<T>* slots;
  int capacity;
  int size;
  int count = 0;
  bool loaded = false;

  __device__ void add(bool enters, Entry<T> entry, int lane) {
    const uint32_t lanes = warp_ballot(enters);
    if (enters) slots[size + count + __popc(lanes & ((1u << lane) - 1))] = entry;
    count += __popc(lanes);
  }

  // Turns the scores of the candidates, all of one tile, into the numbers that decide.
  __device__ void decide(const ScoreTile<T>& tile, int64_t row, int lane) {
    const TileRows<T>& rows = tile.deciding;
    __syncwarp();
    for (int i = size; i < size + count; ++i) {
      const T* other = rows.others + (slots[i].id - tile.first_id) * rows.width;
      const T number = decisive_product(rows.x + row * rows.width, other, rows.width, lane);
      if (lane == 0) slots[i].score = rows.to_float ? static_cast<T>(static_cast<float>(number)) : number;
    }
  }

  // Returns the worst score of the list.
  __device__ T keep_best(const T* scores, const int32_t* ids, int lane) {
    for (int i = lane; !loaded && i < size; i += kWarp) slots[i] = {scores[i], ids[i]};
    loaded = true;
    int length = kWarp;
    while (length < size + count) length *= 2;
    for (int i = size + count + lane; i < length; i += kWarp) slots[i] = {kNothing<T>, -1};
    __syncwarp();
    sort(slots, length, lane);
    count = 0;
    return slots[size - 1].score;
  }
};

// Returns whether the lane saw NaN.
template <typename T>
__device__ bool merge_row(int64_t r, const ScoreTile<T>& tile, T* scores, int32_t* ids, Store<T> store, int lane) {
  const int columns = static_cast<int>(tile.columns);
  const T* row = tile.scores + r * tile.columns;
  const T slack = tile.deciding.error * tile.deciding.x_lengths[r];
  T limit = scores[store.size - 1];
  bool nan = false;
  for (int base = 0; base < columns; base += kStep) {
    T score[kLoads];
    bool any = false;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int c = base + j * kWarp + lane;
      score[j] = c < columns ? row[c] : kNothing<T>;
      // The most it can stand for; -inf is a score that takes no part.
      if (c < columns && score[j] > kNothing<T>) score[j] += slack * tile.deciding.lengths[c];
      any |= score[j] > limit;
      nan |= score[j] != score[j];
    }
    if (!warp_ballot(any)) continue;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const auto id = static_cast<int32_t>(tile.first_id + base + j * kWarp + lane);
      store.add(score[j] > limit, {score[j], id}, lane);
    }
    if (store.size + store.count + kStep > store.capacity) {
      store.decide(tile, r, lane);
      limit = store.keep_best(scores, ids, lane);
    }
  }
  store.decide(tile, r, lane);
  if (store.count > 0) store.keep_best(scores, ids, lane);
  for (int i = lane; store.loaded && i < store.size; i += kWarp) {
    scores[i] = store.slots[i].score;
    ids[i] = store.slots[i].id;
  }
  return nan;
}

template <typename T, bool kGlobal>
__global__ void merge_kernel(ScoreTile<T> tile, TopLists<T> lists, bool* saw_nan, Entry<T>* work, int capacity) {
  MMFAST_DYNAMIC_SHARED(Entry<T>, shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = int64_t{blockIdx.x} * kWarps + warp, warps = int64_t{gridDim.x} * kWarps;
  Entry<T>* slots = kGlobal ? work + first * capacity : shared + warp * capacity;
  for (int64_t r = first; r < tile.rows; r += warps) {
    const Store<T> store{slots, capacity, static_cast<int>(lists.size)};
    const bool nan = merge_row(r, tile, lists.scores + r * lists.stride, lists.ids + r * lists.stride, store, lane);
    __syncwarp();  // the slots serve the next row
    if (saw_nan && warp_ballot(nan) && lane == 0) saw_nan[r] = true;
  }
}

int capacity_of(int64_t size) {
  int capacity = kWarp;
  while (capacity < size + kRoom) capacity *= 2;
  return capacity;
}

template <typename T>
int64_t shared_bytes(int64_t size) {
  return int64_t{kWarps} * capacity_of(size) * static_cast<int64_t>(sizeof(Entry<T>));
}

int64_t blocks_of(int64_t rows, bool global) {
  const int64_t blocks = blocks_for(rows, kWarps);
  return global ? std::min(blocks, kGlobalBlocks) : blocks;
}

}  // namespace

template <typename T>
int64_t topk_work_bytes(int64_t rows, int64_t size) {
  const int64_t bytes = shared_bytes<T>(size);
  return bytes <= kSharedBytes ? 0 : blocks_of(rows, true) * bytes;
}

template <typename T>
cudaError_t topk_merge(const ScoreTile<T>& tile, const TopLists<T>& lists, bool* saw_nan, void* work,
                       cudaStream_t stream) {
  const int64_t bytes = shared_bytes<T>(lists.size);
  const int capacity = capacity_of(lists.size);
  auto* slots = static_cast<Entry<T>*>(work);
  const bool global = bytes > kSharedBytes;
  const auto launch = [&](auto kernel) {
    MMFAST_LAUNCH(kernel, blocks_of(tile.rows, global), kWarps * kWarp, global ? 0 : bytes, stream, tile, lists,
                  saw_nan, slots, capacity);
  };
  global ? launch(merge_kernel<T, true>) : launch(merge_kernel<T, false>);
  return cudaGetLastError();
}

#define MMFAST_TOPK(T)                                   \
  template int64_t topk_work_bytes<T>(int64_t, int64_t); \
  template cudaError_t topk_merge(const ScoreTile<T>&, const TopLists<T>&, bool*, void*, cudaStream_t);
MMFAST_TOPK(float)
MMFAST_TOPK(double)

}  // namespace mmfast
