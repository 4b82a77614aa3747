// All pairs of rows more similar than a threshold: counted, or collected into lists of the lengths that were counted.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "../check.h"
#include "pairs.h"
#include "topk.h"

namespace mmfast {
namespace {

// The least T above eta: a score in T is above eta if and only if it reaches this.
template <typename T>
T least_above(double eta) {
  const T nearest = static_cast<T>(eta);
  return nearest > eta ? nearest : std::nextafter(nearest, std::numeric_limits<T>::infinity());
}

template <typename T>
MMFAST_INLINE int64_t count_reaching(const T* scores, int64_t count, T least, int64_t* column_counts) {
  int64_t found = 0;
  for (int64_t c = 0; c < count; ++c) {
    const int64_t reaches = scores[c] >= least;
    column_counts[c] += reaches;
    found += reaches;
  }
  return found;
}

MMFAST_CLONES int64_t count_row(const float* scores, int64_t count, float least, int64_t* column_counts) {
  return count_reaching(scores, count, least, column_counts);
}

MMFAST_CLONES int64_t count_row(const double* scores, int64_t count, double least, int64_t* column_counts) {
  return count_reaching(scores, count, least, column_counts);
}

// The first score from `from` on that reaches `least`, or count.
template <typename T>
MMFAST_INLINE int64_t find_reaching(const T* scores, int64_t from, int64_t count, T least) {
  constexpr int64_t kStride = 32;
  for (int reaches = 0; from + kStride <= count; from += kStride) {
    for (int64_t c = from; c < from + kStride; ++c) reaches |= scores[c] >= least;
    if (reaches) break;
  }
  while (from < count && !(scores[from] >= least)) ++from;
  return from;
}

MMFAST_CLONES int64_t next_reaching(const float* scores, int64_t from, int64_t count, float least) {
  return find_reaching(scores, from, count, least);
}

MMFAST_CLONES int64_t next_reaching(const double* scores, int64_t from, int64_t count, double least) {
  return find_reaching(scores, from, count, least);
}

template <typename T>
struct Counts {
  int64_t* counts;
  T least;

  void self(int64_t row, T score) {}
  void scan(const T* scores, int64_t row, int64_t begin, int64_t count) {
    counts[row] += count_row(scores, count, least, counts + begin);
  }
};

template <typename T>
struct Collection {
  const int64_t* ptr;
  int32_t* ids;
  T* similarities;
  T least;
  std::vector<int64_t> next;  // the slot each row fills next

  void self(int64_t row, T score) {}
  void scan(const T* scores, int64_t row, int64_t begin, int64_t count) {
    for (int64_t c = next_reaching(scores, 0, count, least); c < count;
         c = next_reaching(scores, c + 1, count, least)) {
      add(row, scores[c], begin + c);
      add(begin + c, scores[c], row);
    }
  }

  void add(int64_t row, T score, int64_t other) {
    const int64_t slot = next[row]++;
    if (slot >= ptr[row + 1]) return;  // finish() reports it
    ids[slot] = static_cast<int32_t>(other);
    similarities[slot] = score;
  }

  void finish() {
    const int64_t rows = static_cast<int64_t>(next.size());
    for (int64_t row = 0; row < rows; ++row) {
      TORCH_CHECK_VALUE(next[row] == ptr[row + 1], "knn_above: row ", row, " has ", next[row] - ptr[row],
                        " rows above eta but ptr gives it ", ptr[row + 1] - ptr[row],
                        " slots; make ptr from knn_count of the same features, eta, metric and block_bytes");
    }
#pragma omp parallel for schedule(dynamic, 256) num_threads(at::get_num_threads())
    for (int64_t row = 0; row < rows; ++row) sort(row);
  }

  void sort(int64_t row) {
    const int64_t begin = ptr[row], size = ptr[row + 1] - begin;
    std::vector<int64_t> order(size);
    std::iota(order.begin(), order.end(), begin);
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return better(similarities[a], ids[a], similarities[b], ids[b]); });
    std::vector<int32_t> sorted_ids(size);
    std::vector<T> sorted(size);
    for (int64_t i = 0; i < size; ++i) {
      sorted_ids[i] = ids[order[i]];
      sorted[i] = similarities[order[i]];
    }
    std::copy(sorted_ids.begin(), sorted_ids.end(), ids + begin);
    std::copy(sorted.begin(), sorted.end(), similarities + begin);
  }
};

at::Tensor knn_count(const at::Tensor& features, double eta, c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_count";
  const bool cosine = check_features(features, metric, block_bytes, op);
  auto counts = at::zeros({features.size(0)}, features.options().dtype(at::kLong));
  const auto count = [&]<typename T>(T) {
    FeatureRows<T> rows(features, cosine, op);
    Counts<T> sink{counts.mutable_data_ptr<int64_t>(), least_above<T>(eta)};
    Pairs<T, Counts<T>>(rows, sink).run(block_bytes);
  };
  features.scalar_type() == at::kDouble ? count(double{}) : count(float{});
  return counts;
}

std::tuple<at::Tensor, at::Tensor> knn_above(const at::Tensor& features, double eta, const at::Tensor& ptr,
                                             c10::string_view metric, int64_t block_bytes) {
  constexpr const char* op = "knn_above";
  const bool cosine = check_features(features, metric, block_bytes, op);
  check_dim(ptr, 1, op, "ptr");
  check_dtype(ptr, at::kLong, op, "ptr");
  check_size(ptr, 0, features.size(0) + 1, op, "ptr");
  const auto offsets = ptr.contiguous();
  const int64_t* begin = offsets.const_data_ptr<int64_t>();
  const int64_t num_edges = begin[features.size(0)];
  TORCH_CHECK_VALUE(begin[0] == 0 && std::is_sorted(begin, begin + ptr.numel()), op, ": ptr runs from ", begin[0],
                    " to ", num_edges, "; wanted ascending offsets from 0");
  const bool wide = features.scalar_type() == at::kDouble;
  auto ids = at::empty({num_edges}, features.options().dtype(at::kInt));
  auto similarities = at::empty({num_edges}, features.options().dtype(wide ? at::kDouble : at::kFloat));
  const auto collect = [&]<typename T>(T) {
    FeatureRows<T> rows(features, cosine, op);
    Collection<T> sink{begin, ids.mutable_data_ptr<int32_t>(), similarities.mutable_data_ptr<T>(), least_above<T>(eta),
                       std::vector<int64_t>(begin, begin + features.size(0))};
    Pairs<T, Collection<T>>(rows, sink).run(block_bytes);
    sink.finish();
  };
  wide ? collect(double{}) : collect(float{});
  return {ids, similarities};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("knn_count", knn_count);
  m.impl("knn_above", knn_above);
}

}  // namespace mmfast
