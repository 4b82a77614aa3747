// The rows that a layer is needed at, where the next layer or the gradient before it touches a few rows only.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "../csr.h"

namespace mmfast {

// Some nodes, sorted, and node -> its place among them, -1 where it is none of them.
struct Frontier {
  std::vector<int64_t> nodes;
  std::vector<int32_t> slot;
};

// The columns that the entries of `count` rows are at. Nothing where computing a layer at these nodes alone is hardly
// less work than at all. Every column of the operator lies inside it, here and below.
template <typename T>
std::optional<Frontier> columns_of_rows(const Graph<T>& graph, const int64_t* rows, int64_t count);

// The rows with an entry at a column whose slot is not negative, and with `own` those columns too: where a product with
// these columns of a table that is zero elsewhere need not be zero. Nothing as above.
template <typename T>
std::optional<Frontier> rows_of_columns(const Graph<T>& graph, const int32_t* slot, bool own);

}  // namespace mmfast
