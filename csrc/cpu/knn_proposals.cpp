// bfloat16 products keep a few times as many rows as are wanted; those that the proven error leaves possible are
// decided by decisive_product. A row whose kept list is too short for the proof is searched again by float32 products.
#include "knn_proposals.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "pairs.h"
#include "proposals.h"
#include "topk.h"

namespace mmfast {
namespace {

constexpr int64_t kSpare = 64;       // proposals kept beyond four times the neighbours
constexpr int64_t kStride = 32;      // scores looked at together
constexpr int64_t kPiece = 64;       // rows decided, or searched again, as one piece of work
constexpr int64_t kColumns = 1'024;  // columns scored together in a second search

// Of every row the best proposals, at most `kept`, that may be among its `others` best.
class Proposals {
 public:
  Proposals(std::vector<double> errors, int64_t others, int64_t kept)
      : errors_(std::move(errors)),
        limits_(errors_.size(), -std::numeric_limits<float>::infinity()),
        kept_(errors_.size(), kept),
        best_(errors_.size(), others) {}

  float limit(int64_t row) const { return limits_[row]; }
  const float* limits() const { return limits_.data(); }

  void self(int64_t row, const float* x) {}
  void scan(const Strip<float>& strip);

  void offer(int64_t row, float score, int64_t other) {
    if (!(score >= limits_[row]) || !kept_.enter(row, score, other)) return;
    if (best_.enter(row, score, other))
      least_[row] = least_contender(best_.list(row).score[0], errors_[row], kBFloat16Output);
    limits_[row] = std::max(least_[row], kept_.list(row).score[0]);
  }

  // Leaves the contenders for the row's list in ids; returns whether these are all of them for sure.
  bool contenders(int64_t row, std::vector<int32_t>& ids) {
    const auto list = kept_.list(row);
    ids.clear();
    for (int64_t i = 0; i < list.size; ++i) {
      if (list.id[i] != Heaps::kNone && list.score[i] >= least_[row]) ids.push_back(list.id[i]);
    }
    return static_cast<int64_t>(ids.size()) < list.size || list.size == static_cast<int64_t>(errors_.size()) - 1;
  }

 private:
  // A heap of `width` pairs per row.
  struct Heaps {
    static constexpr int32_t kNone = std::numeric_limits<int32_t>::max();

    Heaps(int64_t rows, int64_t width)
        : width(width), scores(rows * width, -std::numeric_limits<float>::infinity()), ids(rows * width, kNone) {}

    WorstFirst<float> list(int64_t row) { return {scores.data() + row * width, ids.data() + row * width, width}; }

    bool enter(int64_t row, float score, int64_t other) {
      auto heap = list(row);
      if (!better(score, static_cast<int32_t>(other), heap.score[0], heap.id[0])) return false;
      heap.replace_root(score, static_cast<int32_t>(other));
      return true;
    }

    const int64_t width;
    std::vector<float> scores;
    std::vector<int32_t> ids;
  };

  const std::vector<double> errors_;
  std::vector<float> limits_, least_ = limits_;
  Heaps kept_, best_;
};

// Whether any of kStride scores can enter the list of the row or that of its column.
MMFAST_INLINE bool any_enters(const float* scores, float row_limit, const float* column_limit) {
  int enters = 0;
  for (int64_t j = 0; j < kStride; ++j) enters |= (scores[j] >= row_limit) | (scores[j] >= column_limit[j]);
  return enters != 0;
}

MMFAST_CLONES void offer_all(Proposals& lists, const Strip<float>& strip) {
  const auto& [scores, row, begin, count, x, others] = strip;
  for (int64_t j = 0; j < count; j += kStride) {
    const int64_t end = std::min(count, j + kStride);
    if (end - j == kStride && !any_enters(scores + j, lists.limit(row), lists.limits() + begin + j)) continue;
    for (int64_t c = j; c < end; ++c) {
      lists.offer(row, scores[c], begin + c);
      lists.offer(begin + c, scores[c], row);
    }
  }
}

void Proposals::scan(const Strip<float>& strip) { offer_all(*this, strip); }

// Returns for every row how far its products can be off. Those of an all-zero row, which is NaN, let nothing in.
std::vector<double> product_errors(FeatureRows<float>& features, int64_t block_bytes) {
  const int64_t size = features.size(), width = features.width();
  const int64_t step = std::clamp<int64_t>(block_bytes / std::max<int64_t>(1, 4 * width), 1, size);
  const auto block = features.empty(step);
  std::vector<Rounding> roundings(size);
  for (int64_t begin = 0; begin < size; begin += step) {
    const auto rows = block.narrow(0, 0, std::min(step, size - begin));
    features.load(begin, rows);
    const float* x = rows.const_data_ptr<float>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
    for (int64_t r = 0; r < rows.size(0); ++r) roundings[begin + r] = rounding_of(x + r * width, width);
  }
  Rounding worst;
  for (const Rounding& rounding : roundings) worst.join(rounding);  // which passes NaN over
  std::vector<double> errors(size);
  for (int64_t row = 0; row < size; ++row) {
    errors[row] = std::isnan(roundings[row].norm) ? 0 : product_error(roundings[row], worst, width);
  }
  return errors;
}

// Decides a row among the contenders.
void decide(FeatureRows<float>& features, int64_t row, const std::vector<int32_t>& contenders,
            NeighbourLists<float>& lists) {
  const int64_t count = contenders.size(), width = features.width();
  auto wanted = at::empty({count + 1}, at::kInt);
  int32_t* ids = wanted.mutable_data_ptr<int32_t>();
  ids[0] = static_cast<int32_t>(row);
  std::copy(contenders.begin(), contenders.end(), ids + 1);
  const auto rows = features.gather(wanted);
  const float* x = rows.const_data_ptr<float>();
  lists.self(row, x);
  for (int64_t c = 1; c <= count; ++c) lists.offer(row, decisive_product(x, x + c * width, width), ids[c]);
}

// Decides all rows that the proposals suffice for, and returns the others.
std::vector<int32_t> decide_all(FeatureRows<float>& features, Proposals& proposals, NeighbourLists<float>& lists) {
  std::vector<char> undecided(features.size());
  Pieces pieces(divide_up(features.size(), kPiece));
  for_workers([&] {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    std::vector<int32_t> contenders;
    for (int64_t piece; pieces.take(piece);) {
      const int64_t end = std::min(features.size(), (piece + 1) * kPiece);
      for (int64_t row = piece * kPiece; row < end; ++row) {
        undecided[row] = !proposals.contenders(row, contenders);
        if (!undecided[row]) decide(features, row, contenders, lists);
      }
    }
  });
  std::vector<int32_t> rows;
  for (int64_t row = 0; row < features.size(); ++row) {
    if (undecided[row]) rows.push_back(static_cast<int32_t>(row));
  }
  return rows;
}

// Scores some rows of `queries` against all rows of a panel of columns.
void search_piece(const at::Tensor& queries, const int32_t* rows, const at::Tensor& panel, int64_t first_column,
                  NeighbourLists<float>& lists) {
  for (int64_t begin = 0; begin < panel.size(0); begin += kColumns) {
    const int64_t width = std::min(kColumns, panel.size(0) - begin), column = first_column + begin;
    auto tile = at::empty({queries.size(0), width}, queries.options());
    at::mm_out(tile, queries, panel.narrow(0, begin, width).t());  // autocast leaves it alone
    float* score = tile.mutable_data_ptr<float>();
    const float* x = queries.const_data_ptr<float>();
    const float* others = panel.const_data_ptr<float>() + begin * panel.size(1);
    for (int64_t q = 0; q < queries.size(0); ++q, score += width, x += queries.size(1)) {
      const int64_t own = rows[q] - column;
      if (own >= 0 && own < width) {
        lists.self(rows[q], x);
        score[own] = std::numeric_limits<float>::quiet_NaN();
      }
      lists.scan_row({score, rows[q], column, width, x, others});
    }
  }
}

void search_again(FeatureRows<float>& features, NeighbourLists<float>& lists, std::vector<int32_t>& rows,
                  int64_t block_bytes) {
  const int64_t row_bytes = std::max<int64_t>(1, features.width() * sizeof(float)), count = rows.size();
  const int64_t step = std::min(features.size(), std::max(kPiece, block_bytes / row_bytes / 2));
  const auto panel = features.empty(step);
  for (int64_t first = 0; first < count; first += step) {
    const int64_t queries = std::min(step, count - first);
    const auto left = features.gather(at::from_blob(rows.data() + first, {queries}, at::kInt));
    for (int64_t column = 0; column < features.size(); column += step) {
      const auto right = panel.narrow(0, 0, std::min(step, features.size() - column));
      features.load(column, right);
      Pieces pieces(divide_up(queries, kPiece));
      for_workers([&] {
        const at::AutoDispatchBelowADInplaceOrView below_autograd;
        for (int64_t piece; pieces.take(piece);) {
          const int64_t begin = piece * kPiece, size = std::min(kPiece, queries - begin);
          search_piece(left.narrow(0, begin, size), rows.data() + first + begin, right, column, lists);
        }
      });
    }
  }
}

}  // namespace

void fill_by_proposals(FeatureRows<float>& features, NeighbourLists<float>& lists, int64_t others,
                       int64_t block_bytes) {
  const int64_t size = features.size(), kept = std::min(size - 1, 4 * others + kSpare);
  auto errors = product_errors(features, block_bytes);
  const auto unproved = [](double error) { return std::isinf(error); };
  std::vector<int32_t> rows(size);
  if (std::none_of(errors.begin(), errors.end(), unproved)) {
    Proposals proposals(std::move(errors), others, kept);
    Pairs<float, Proposals>(features, proposals, 0, true).run(block_bytes);
    rows = decide_all(features, proposals, lists);
  }
  // A second search does not halve the work by symmetry: beyond half of the rows, all of them cost less.
  if (2 * static_cast<int64_t>(rows.size()) > size) {
    lists.clear();
    Pairs<float, NeighbourLists<float>>(features, lists).run(block_bytes);
  } else {
    search_again(features, lists, rows, block_bytes);
  }
}

}  // namespace mmfast
