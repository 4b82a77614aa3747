// Weighted sampling of edges without replacement: exponential keys, keep the smallest (Efraimidis and Spirakis, 2006).
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <memory>
#include <span>
#include <vector>

#include "../check.h"
#include "../philox.h"

namespace mmfast {
namespace {

using Keys = std::span<const uint64_t>;

constexpr const char* kOp = "sample_edges";
constexpr int64_t kBlock = 1 << 15;  // edges per piece of work: fixed, so that results never depend on the threads
constexpr int kBinShift = 48;        // sign, exponent and 4 bits of mantissa choose one of 2^15 bins
constexpr int64_t kBins = 1 << 15;

// Uniform in (0, 1), from 52 bits: with one more the half could not be added exactly, and 1 would be reached.
double uniform(Philox4 random) {
  const uint64_t bits = (static_cast<uint64_t>(random.word[0] >> 6) << 26) | (random.word[1] >> 6);
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

// keys[e] orders like -log(u_e) / weight_e: positive doubles order like their bits. Returns the first bad edge or -1.
template <typename T>
int64_t draw_keys(const T* weights, int64_t size, uint64_t seed, uint64_t stream, uint64_t* keys) {
  int64_t bad = size;
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads()) reduction(min : bad)
  for (int64_t e = 0; e < size; ++e) {
    const double weight = weights[e];
    if (!(weight > 0.0) || !std::isfinite(weight)) bad = std::min(bad, e);
    const double key = -std::log(uniform(philox(seed, static_cast<uint64_t>(e), stream))) / weight;
    keys[e] = std::bit_cast<uint64_t>(key);
  }
  return bad == size ? -1 : bad;
}

// The rank-th smallest key, rank from 0: the bin that holds it by counting, then selection inside that bin.
uint64_t select(Keys keys, int64_t rank) {
  const auto size = static_cast<int64_t>(keys.size());
  std::vector<int64_t> count(kBins, 0);
#pragma omp parallel num_threads(at::get_num_threads())
  {
    std::vector<int64_t> own(kBins, 0);
#pragma omp for schedule(static)
    for (int64_t e = 0; e < size; ++e) ++own[keys[e] >> kBinShift];
#pragma omp critical(mmfast_sample_edges)
    for (int64_t bin = 0; bin < kBins; ++bin) count[bin] += own[bin];
  }
  int64_t bin = 0;
  for (; rank >= count[bin]; ++bin) rank -= count[bin];
  std::vector<uint64_t> inside;
  inside.reserve(count[bin]);
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(inside),
               [bin](uint64_t key) { return static_cast<int64_t>(key >> kBinShift) == bin; });
  std::nth_element(inside.begin(), inside.begin() + rank, inside.end());
  return inside[rank];
}

struct BlockCount {
  int64_t below = 0, equal = 0;
};

// Writes the ids of all keys below the limit and of the first equal ones, ascending, num_kept in all.
void write_kept(Keys keys, uint64_t limit, int64_t num_kept, int64_t* out) {
  const auto size = static_cast<int64_t>(keys.size());
  const int64_t num_blocks = (size + kBlock - 1) / kBlock;
  std::vector<BlockCount> counts(num_blocks);
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t block = 0; block < num_blocks; ++block) {
    for (int64_t e = block * kBlock, end = std::min(size, e + kBlock); e < end; ++e) {
      counts[block].below += keys[e] < limit;
      counts[block].equal += keys[e] == limit;
    }
  }
  int64_t equal_left = num_kept;
  for (const auto& count : counts) equal_left -= count.below;
  std::vector<int64_t> start(num_blocks);
  for (int64_t block = 0, next = 0; block < num_blocks; ++block) {
    counts[block].equal = std::min(counts[block].equal, equal_left);
    equal_left -= counts[block].equal;
    start[block] = next;
    next += counts[block].below + counts[block].equal;
  }
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t block = 0; block < num_blocks; ++block) {
    int64_t next = start[block], equal = counts[block].equal;
    for (int64_t e = block * kBlock, end = std::min(size, e + kBlock); e < end; ++e) {
      if (keys[e] < limit || (keys[e] == limit && equal-- > 0)) out[next++] = e;
    }
  }
}

at::Tensor sample_edges(const at::Tensor& weights, int64_t num_kept, int64_t seed, int64_t stream) {
  check_dim(weights, 1, kOp, "weights");
  check_real(weights, kOp, "weights");
  const auto values = weights.contiguous();
  const int64_t size = values.numel();
  TORCH_CHECK_VALUE(num_kept >= 0 && num_kept <= size, kOp, ": num_kept=", num_kept, " but there are ", size,
                    " edges; choose 0 to ", size);
  const auto store = std::make_unique_for_overwrite<uint64_t[]>(size);
  const Keys keys(store.get(), size);
  const int64_t bad =
      values.scalar_type() == at::kFloat
          ? draw_keys(values.const_data_ptr<float>(), size, static_cast<uint64_t>(seed), stream, store.get())
          : draw_keys(values.const_data_ptr<double>(), size, static_cast<uint64_t>(seed), stream, store.get());
  TORCH_CHECK_VALUE(bad < 0, kOp, ": the weight of edge ", bad, " is ", values[bad].item<double>(),
                    "; wanted a finite number above zero");
  auto out = at::empty({num_kept}, values.options().dtype(at::kLong));
  if (num_kept > 0) write_kept(keys, select(keys, num_kept - 1), num_kept, out.mutable_data_ptr<int64_t>());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("sample_edges", sample_edges); }

}  // namespace mmfast
