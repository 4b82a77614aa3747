// Launchers of the kernels round the products of rank.
#pragma once
#include <cstdint>

#include "device_check.h"
#include "runtime.h"

namespace mmfast {

// One ascending list of item ids per user row: items[ptr[row]] .. items[ptr[row + 1]].
struct ItemLists {
  const int64_t* ptr;
  const int32_t* items;
};

// What is ranked: `size` items, ascending, or where `ids` is null the items 0 .. size.
struct Pool {
  const int32_t* ids;
  int64_t size;
};

// Stops the device unless offsets and lists ascend and point into num_entries items below num_items.
cudaError_t rank_check_lists(const ItemLists& lists, int64_t num_rows, int64_t num_entries, int64_t num_items,
                             const Label& label, cudaStream_t stream);

// scores [rows, columns] of the candidates from `first` on: -inf for those in the row's list.
template <typename T>
cudaError_t rank_hide(T* scores, int64_t rows, int64_t columns, int64_t first, const ItemLists& hidden,
                      const Pool& pool, cudaStream_t stream);

// top [rows, k] holds places among the candidates, -1 for none, and receives item ids; hits: which are targets.
cudaError_t rank_finish(int32_t* top, bool* hits, int64_t rows, int64_t k, const ItemLists& targets, const Pool& pool,
                        cudaStream_t stream);

}  // namespace mmfast
