// The vector exponential by itself, for its test.
#include "exp.h"

namespace mmfast {

MMFAST_CLONES void exp_in_place(float* x, int64_t count) { exp_row(x, count, 0.0f); }
MMFAST_CLONES void exp_in_place(double* x, int64_t count) { exp_row(x, count, 0.0); }

}  // namespace mmfast
