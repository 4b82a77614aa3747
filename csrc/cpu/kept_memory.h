// Memory of CPU tensors that stays with the process when they are freed.
#pragma once

namespace mmfast {

// From now on, freed memory is kept for the tensors to come. Does nothing where the C library is not glibc.
void keep_freed_memory();

// Gives what is free back to the system.
void release_freed_memory();

}  // namespace mmfast
