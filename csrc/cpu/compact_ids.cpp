// Renumbers ids: the sorted ids that occur, and for every id its place among them, by one bit per possible id.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <bit>
#include <cstdint>
#include <tuple>
#include <vector>

#include "../check.h"

namespace mmfast {
namespace {

std::tuple<at::Tensor, at::Tensor> compact_ids(const at::Tensor& ids, int64_t num_rows) {
  check_dtype(ids, at::kLong, "compact_ids", "ids");
  TORCH_CHECK(num_rows >= 0, "compact_ids: num_rows is ", num_rows, "; wanted 0 or more");
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, num_rows, "compact_ids", "ids");
  const int64_t* id = dense.const_data_ptr<int64_t>();
  const int64_t count = dense.numel(), num_words = (num_rows + 63) / 64;

  std::vector<uint64_t> present(num_words, 0);
  for (int64_t i = 0; i < count; ++i) present[id[i] >> 6] |= uint64_t{1} << (id[i] & 63);
  std::vector<int64_t> before(num_words);  // ids that occur below each word
  int64_t total = 0;
  for (int64_t w = 0; w < num_words; ++w) {
    before[w] = total;
    total += std::popcount(present[w]);
  }

  at::Tensor rows = at::empty({total}, ids.options());
  at::Tensor index = at::empty(ids.sizes(), ids.options());
  int64_t* row = rows.mutable_data_ptr<int64_t>();
  for (int64_t w = 0; w < num_words; ++w) {
    for (uint64_t bits = present[w]; bits != 0; bits &= bits - 1) *row++ = w * 64 + std::countr_zero(bits);
  }
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
