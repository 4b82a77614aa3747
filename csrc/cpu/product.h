// One sparse product over a table, the step that every propagation is made of.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

#include "graph.h"

namespace mmfast {

// What goes into out = alpha * (base + A in) + extra. Rows are summed in Sum<In>, each by one thread in the order of
// its entries, and rounded once: the bits depend neither on the threads nor on what else is computed.
template <typename In>
struct Operands {
  Graph<Sum<In>> graph;
  const In* in;                      // a row per column of A, or per slot where `in_slot`
  int64_t dim;                       // columns of every table
  const int32_t* in_slot = nullptr;  // node -> row of a compact `in`, -1 where that row is zero
  const In* base = nullptr;          // a row per row of A, or per slot where `slot`; null: zero
  const In* extra = nullptr;         // a row per slot; null: zero
  const int32_t* slot = nullptr;     // node -> row of a compact `base` and `extra`
  const int64_t* rows = nullptr;     // rows of A to compute; null: all of them
  Sum<In> alpha = 1;
};

template <typename In, typename Out = In>
struct Product : Operands<In> {
  Out* out;
  bool stream;        // write `out` past the caches
  int64_t width = 0;  // columns of the tables that multiply_range computes, the first ones
};

// Computes `count` rows: those of p.rows, or all of A. Wide tables are computed a few columns at a time, so that what
// is gathered from stays in the caches. With `check`, a piece of the rows with a column outside the table is left out,
// and the result is false.
template <typename In, typename Out>
bool multiply(const Product<In, Out>& p, int64_t count, bool check);

// Computes rows [first, last) of p.rows, or of A, on the calling thread.
void multiply_range(const Product<float>& p, int64_t first, int64_t last);
void multiply_range(const Product<double>& p, int64_t first, int64_t last);
void multiply_range(const Product<c10::BFloat16>& p, int64_t first, int64_t last);
void multiply_range(const Product<c10::BFloat16, float>& p, int64_t first, int64_t last);
void multiply_range(const Product<c10::Half>& p, int64_t first, int64_t last);
void multiply_range(const Product<c10::Half, float>& p, int64_t first, int64_t last);

// Whether this CPU has the instructions that products over float16 tables are compiled for.
bool has_half();

}  // namespace mmfast
