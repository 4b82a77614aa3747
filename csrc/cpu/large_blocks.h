// Memory of large CPU tensors that stays with the process when they are freed.
#pragma once
#include <cstddef>

namespace mmfast {

// From now on, freed blocks of CPU tensors are kept for the tensors to come. False where the system is not Linux.
bool keep_large_blocks();

// Gives the kept blocks back to the system; returns how many bytes they were.
size_t release_large_blocks();

}  // namespace mmfast
