// What the losses take, as the kernels of every device read it.
#pragma once
#include <cstdint>

namespace mmfast {

// Rows user[b], pos[b], neg[b] of the tables users and items, which are `dim` wide.
template <typename T>
struct Triples {
  const T *users, *items;
  const int64_t *user, *pos, *neg;
  int64_t count, dim;
};

enum class CkdSpecific { kHinge, kCrossEntropy, kSquare };
enum class CkdWeights { kPaper, kCode, kUniform, kOnes };

// margin [count]; the others are stacks [modalities, count], those of universal triples [modalities, universal].
template <typename T>
struct CkdMargins {
  const T *margin, *student, *masked, *teacher, *universal_student, *universal_teacher;
  int64_t modalities, count, universal;
};

struct CkdOptions {
  double generic_weight, inverse_tau, eps;
  CkdSpecific specific;
  CkdWeights weights;
};

constexpr int64_t kKlModalities = 8;  // of transfer_kl, at most

}  // namespace mmfast
