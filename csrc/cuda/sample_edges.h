// Launcher of the kernel that draws the keys of edges.
#pragma once
#include <cstdint>

#include "runtime.h"

namespace mmfast {

// keys[e] orders like -log(u_e) / weights[e], which is above zero; -1 where the weight is not finite and above zero.
// The device's logarithm may differ from the host's in the last bit: the kept edges are the same unless two keys at the
// limit are that close.
template <typename T>
cudaError_t sample_edges_keys(const T* weights, int64_t size, uint64_t seed, uint64_t stream_id, int64_t* keys,
                              cudaStream_t stream);

}  // namespace mmfast
