// Launchers of the kernels that renumber ids.
#pragma once
#include <cstdint>

#include "runtime.h"

namespace mmfast {

// present[id] = 1 for every id; `present` holds zeros before.
cudaError_t compact_ids_mark(const int64_t* ids, int64_t count, uint8_t* present, cudaStream_t stream);

// place[r] is the number of present ids up to and including r. rows: the present ids; index: the place of every id.
cudaError_t compact_ids_write(const int64_t* ids, int64_t count, const uint8_t* present, const int64_t* place,
                              int64_t num_rows, int64_t* rows, int64_t* index, cudaStream_t stream);

}  // namespace mmfast
