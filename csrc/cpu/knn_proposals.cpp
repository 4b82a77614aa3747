// bfloat16 products keep a few times as many rows as are wanted; float32 products decide among those that the proven
// error leaves possible. A row whose kept list is too short for the proof is searched again in float32.
#include "knn_proposals.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <limits>
#include <vector>

#include "pairs.h"

namespace mmfast {
namespace {

constexpr int64_t kSpare = 64;       // proposals kept beyond four times the neighbours
constexpr int64_t kPiece = 64;       // rows decided, or searched again, as one piece of work
constexpr int64_t kColumns = 1'024;  // columns scored together in a second search

class Decision {
 public:
  Decision(FeatureRows<float>& features, NeighbourLists<float>& lists, int64_t others)
      : features_(features),
        lists_(lists),
        others_(others),
        kept_(std::min(features.size() - 1, 4 * others + kSpare)),
        ids_(at::empty({features.size(), kept_}, at::kInt)),
        scores_(at::empty({features.size(), kept_}, at::kFloat)),
        roundings_(features.size()) {}

  void propose(int64_t block_bytes) {
    NeighbourLists<float> proposals(ids_.mutable_data_ptr<int32_t>(), scores_.mutable_data_ptr<float>(),
                                    features_.size(), kept_, false);
    Pairs<float, NeighbourLists<float>>(features_, proposals, 0, roundings_.data()).run(block_bytes);
    proposals.finish();
    for (const Rounding& rounding : roundings_) worst_.join(rounding);
  }

  // Returns the rows that the proposals cannot decide.
  std::vector<int32_t> decide() {
    std::vector<char> undecided(features_.size());
    Pieces pieces(divide_up(features_.size(), kPiece));
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      for (int64_t piece; pieces.take(piece);) {
        const int64_t end = std::min(features_.size(), (piece + 1) * kPiece);
        for (int64_t row = piece * kPiece; row < end; ++row) undecided[row] = !decide_row(row);
      }
    });
    std::vector<int32_t> rows;
    for (int64_t row = 0; row < features_.size(); ++row) {
      if (undecided[row]) rows.push_back(static_cast<int32_t>(row));
    }
    return rows;
  }

 private:
  bool decide_row(int64_t row) {
    const int32_t* ids = ids_.const_data_ptr<int32_t>() + row * kept_;
    const float* scores = scores_.const_data_ptr<float>() + row * kept_;
    const int64_t found = std::find(ids, ids + kept_, -1) - ids;
    const bool complete = found < kept_ || kept_ == features_.size() - 1;
    const double error = product_error(roundings_[row], worst_, features_.width());
    const int64_t count = found ? contenders(scores, found, others_, error, complete) : 0;
    if (count < 0) return false;
    auto wanted = at::empty({count + 1}, at::kInt);
    int32_t* id = wanted.mutable_data_ptr<int32_t>();
    id[0] = static_cast<int32_t>(row);
    std::copy(ids, ids + count, id + 1);
    const auto rows = features_.gather(wanted);
    const int64_t width = features_.width();
    const float* x = rows.const_data_ptr<float>();
    lists_.self(row, decisive_product(x, x, width));
    for (int64_t c = 1; c <= count; ++c) lists_.offer(row, decisive_product(x, x + c * width, width), id[c]);
    return true;
  }

  FeatureRows<float>& features_;
  NeighbourLists<float>& lists_;
  const int64_t others_, kept_;
  const at::Tensor ids_, scores_;  // [I, kept]
  std::vector<Rounding> roundings_;
  Rounding worst_;
};

// Scores some rows of `queries` against all rows of a panel of columns.
void search_piece(const at::Tensor& queries, const int32_t* rows, const at::Tensor& panel, int64_t first_column,
                  NeighbourLists<float>& lists) {
  for (int64_t begin = 0; begin < panel.size(0); begin += kColumns) {
    const int64_t width = std::min(kColumns, panel.size(0) - begin), column = first_column + begin;
    const auto tile = at::mm(queries, panel.narrow(0, begin, width).t());
    float* score = tile.mutable_data_ptr<float>();
    for (int64_t q = 0; q < queries.size(0); ++q, score += width) {
      const int64_t own = rows[q] - column;
      if (own >= 0 && own < width) {
        lists.self(rows[q], score[own]);
        score[own] = std::numeric_limits<float>::quiet_NaN();
      }
      lists.scan_row(score, rows[q], column, width);
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
  std::vector<int32_t> rows;
  {
    Decision decision(features, lists, others);
    decision.propose(block_bytes);
    rows = decision.decide();
  }
  // A second search does not halve the work by symmetry: beyond half of the rows, all of them cost less.
  if (2 * static_cast<int64_t>(rows.size()) > features.size()) {
    lists.clear();
    Pairs<float, NeighbourLists<float>>(features, lists).run(block_bytes);
  } else {
    search_again(features, lists, rows, block_bytes);
  }
}

}  // namespace mmfast
