// Frontiers: marks of nodes, and the choice between them and all nodes.
#include "frontier.h"

#include <ATen/Parallel.h>

namespace mmfast {
namespace {

constexpr int64_t kGrain = 1 << 14;  // rows of a task

// A frontier pays where its rows have at most a third of the work, where an entry and a row that is written count
// alike: looking its nodes up takes time too, and with half of it tables of 16-bit numbers were slower.
std::optional<Frontier> collect(const std::vector<uint8_t>& marks, const int64_t* ptr) {
  const int64_t num_nodes = static_cast<int64_t>(marks.size());
  int64_t count = 0, entries = 0;
  for (int64_t node = 0; node < num_nodes; ++node) {
    count += marks[node];
    entries += marks[node] ? ptr[node + 1] - ptr[node] : 0;
  }
  if (3 * (count + entries) > num_nodes + ptr[num_nodes]) return {};
  Frontier frontier{{}, std::vector<int32_t>(num_nodes, -1)};
  frontier.nodes.reserve(count);
  for (int64_t node = 0; node < num_nodes; ++node) {
    if (!marks[node]) continue;
    frontier.slot[node] = static_cast<int32_t>(frontier.nodes.size());
    frontier.nodes.push_back(node);
  }
  return frontier;
}

}  // namespace

template <typename T>
std::optional<Frontier> columns_of_rows(const Graph<T>& g, const int64_t* rows, int64_t count) {
  std::vector<uint8_t> marks(g.num_cols, 0);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t e = g.ptr[rows[i]]; e < g.ptr[rows[i] + 1]; ++e) marks[g.cols[e]] = 1;
  }
  return collect(marks, g.ptr);
}

template <typename T>
std::optional<Frontier> rows_of_columns(const Graph<T>& g, const int32_t* slot, bool own) {
  std::vector<uint8_t> marks(g.num_rows, 0);
  at::parallel_for(0, g.num_rows, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      bool hit = own && slot[row] >= 0;
      for (int64_t e = g.ptr[row]; !hit && e < g.ptr[row + 1]; ++e) hit = slot[g.cols[e]] >= 0;
      marks[row] = hit;
    }
  });
  return collect(marks, g.ptr);
}

template std::optional<Frontier> columns_of_rows(const Graph<float>& g, const int64_t* rows, int64_t count);
template std::optional<Frontier> columns_of_rows(const Graph<double>& g, const int64_t* rows, int64_t count);
template std::optional<Frontier> rows_of_columns(const Graph<float>& g, const int32_t* slot, bool own);
template std::optional<Frontier> rows_of_columns(const Graph<double>& g, const int32_t* slot, bool own);

}  // namespace mmfast
