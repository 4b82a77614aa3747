// Neighbours by bfloat16 proposals, decided in float32.
#pragma once
#include "feature_rows.h"
#include "neighbour_lists.h"

namespace mmfast {

// Fills empty lists of `others` neighbours a row (above 0), the row itself aside. finish() is left to the caller.
void fill_by_proposals(FeatureRows<float>& features, NeighbourLists<float>& lists, int64_t others, int64_t block_bytes);

}  // namespace mmfast
