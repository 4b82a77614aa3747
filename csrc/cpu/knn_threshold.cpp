// All pairs of rows more similar than a threshold: counted, or collected into lists of the lengths that were counted.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "../check.h"
#include "decisions.h"
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

constexpr int64_t kStride = 32;  // scores looked at together

// A number reaches `least` for sure where its product does by more than the error, and may where it lacks no more.
template <typename T>
MMFAST_INLINE int64_t count_reaching(const Decisions<T>& decisions, const Strip<T>& strip, T least,
                                     int64_t* column_counts) {
  const T *scores = strip.scores, *lengths = decisions.lengths() + strip.begin, slack = decisions.slack(strip.row);
  int64_t found = 0;
  for (int64_t j = 0; j < strip.count; j += kStride) {
    const int64_t end = std::min(strip.count, j + kStride);
    int open = 0;
    for (int64_t c = j; c < end; ++c) {
      const int64_t reaches = scores[c] - slack * lengths[c] >= least;
      open |= (scores[c] + slack * lengths[c] >= least) != reaches;
      column_counts[c] += reaches;
      found += reaches;
    }
    for (int64_t c = j; open && c < end; ++c) {
      const T error = slack * lengths[c];
      if (scores[c] - error >= least || !(scores[c] + error >= least)) continue;
      const int64_t reaches = decisions.decide(strip.x, strip.others + c * decisions.width()) >= least;
      column_counts[c] += reaches;
      found += reaches;
    }
  }
  return found;
}

MMFAST_CLONES int64_t count_strip(const Decisions<float>& decisions, const Strip<float>& strip, float least,
                                  int64_t* column_counts) {
  return count_reaching(decisions, strip, least, column_counts);
}

MMFAST_CLONES int64_t count_strip(const Decisions<double>& decisions, const Strip<double>& strip, double least,
                                  int64_t* column_counts) {
  return count_reaching(decisions, strip, least, column_counts);
}

// The first score from `from` on whose number may reach `least`, or count.
template <typename T>
MMFAST_INLINE int64_t find_reaching(const Decisions<T>& decisions, const Strip<T>& strip, T least, int64_t from) {
  const T *scores = strip.scores, *lengths = decisions.lengths() + strip.begin, slack = decisions.slack(strip.row);
  for (int reaches = 0; from + kStride <= strip.count; from += kStride) {
    for (int64_t c = from; c < from + kStride; ++c) reaches |= scores[c] + slack * lengths[c] >= least;
    if (reaches) break;
  }
  while (from < strip.count && !(scores[from] + slack * lengths[from] >= least)) ++from;
  return from;
}

MMFAST_CLONES int64_t next_reaching(const Decisions<float>& decisions, const Strip<float>& strip, float least,
                                    int64_t from) {
  return find_reaching(decisions, strip, least, from);
}

MMFAST_CLONES int64_t next_reaching(const Decisions<double>& decisions, const Strip<double>& strip, double least,
                                    int64_t from) {
  return find_reaching(decisions, strip, least, from);
}

template <typename T>
struct Counts {
  const Decisions<T> decisions;
  int64_t* counts;
  T least;

  void self(int64_t row, const T* x) {}
  void scan(const Strip<T>& strip) { counts[strip.row] += count_strip(decisions, strip, least, counts + strip.begin); }
};

template <typename T>
struct Collection {
  const Decisions<T> decisions;
  const int64_t* ptr;
  int32_t* ids;
  T* similarities;
  T least;
  std::vector<int64_t> next;  // the slot each row fills next

  void self(int64_t row, const T* x) {}
  void scan(const Strip<T>& strip) {
    for (int64_t c = next_reaching(decisions, strip, least, 0); c < strip.count;
         c = next_reaching(decisions, strip, least, c + 1)) {
      const T similarity = decisions.decide(strip.x, strip.others + c * decisions.width());
      if (!(similarity >= least)) continue;
      add(strip.row, similarity, strip.begin + c);
      add(strip.begin + c, similarity, strip.row);
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
    Counts<T> sink{Decisions<T>(rows), counts.mutable_data_ptr<int64_t>(), least_above<T>(eta)};
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
    Collection<T> sink{Decisions<T>(rows),
                       begin,
                       ids.mutable_data_ptr<int32_t>(),
                       similarities.mutable_data_ptr<T>(),
                       least_above<T>(eta),
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
