// Renumbers ids: the sorted ids that occur, and for every id its place among them, by one bit per possible id.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "../check.h"

namespace mmfast {
namespace {

// Calls visit(first + b) for every bit b of the word that is set.
template <typename Visit>
void for_bits(uint64_t word, int64_t first, Visit visit) {
  for (; word != 0; word &= word - 1) visit(first + std::countr_zero(word));
}

std::tuple<at::Tensor, at::Tensor> compact_ids(const at::Tensor& ids, int64_t num_rows) {
  check_dtype(ids, at::kLong, "compact_ids", "ids");
  TORCH_CHECK(num_rows >= 0, "compact_ids: num_rows is ", num_rows, "; wanted 0 or more");
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, num_rows, "compact_ids", "ids");
  const int64_t* id = dense.const_data_ptr<int64_t>();
  const int64_t count = dense.numel(), num_words = (num_rows + 63) / 64;

  // One bit for an id that occurs, and one for a word of such bits that has any: empty words are not read again.
  std::vector<uint64_t> present(num_words, 0), occupied((num_words + 63) / 64, 0);
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t w = id[i] >> 6;
    const uint64_t bit = uint64_t{1} << (id[i] & 63);
    total += (present[w] & bit) == 0;
    present[w] |= bit;
    occupied[w >> 6] |= uint64_t{1} << (w & 63);
  }

  const at::Tensor rows = at::empty({total}, ids.options()), index = at::empty(ids.sizes(), ids.options());
  int64_t *first = rows.mutable_data_ptr<int64_t>(), *row = first;
  const auto before = std::make_unique_for_overwrite<int64_t[]>(num_words);  // ids that occur below each word with any
  const auto add_word = [&](int64_t w) {
    before[w] = row - first;
    for_bits(present[w], w * 64, [&](int64_t r) { *row++ = r; });
  };
  for (size_t o = 0; o < occupied.size(); ++o) for_bits(occupied[o], static_cast<int64_t>(o) * 64, add_word);
  int64_t* place = index.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t w = id[i] >> 6;
    const uint64_t below = (uint64_t{1} << (id[i] & 63)) - 1;
    place[i] = before[w] + std::popcount(present[w] & below);
  }
  return {rows, index};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("compact_ids", &compact_ids); }

}  // namespace mmfast
