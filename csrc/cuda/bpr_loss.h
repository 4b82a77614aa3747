// Launchers of the BPR kernels.
#pragma once
#include "../losses.h"
#include "runtime.h"

namespace mmfast {

enum class BprKind { kLogSigmoid, kEps, kRaw, kLog2 };

// Numbers of the work space `sums` of the forward pass.
int64_t bpr_loss_sums(int64_t count);

// loss [1] = mean of the losses; slope [count] = derivative of that mean by each margin.
template <typename T>
cudaError_t bpr_loss_forward(const Triples<T>& t, BprKind kind, T* slope, double* sums, T* loss, cudaStream_t stream);

// One table's batch entries, brought together by row: `row` ascends and `entry` ascends within a row.
struct Grouped {
  const int64_t* row;
  const int64_t* entry;
  int64_t count;
};

// Gradients of the rows that occur; the tables hold zeros before. An entry of `items` is 2 b for pos[b], 2 b + 1 for
// neg[b]. grad [1] is the gradient of the loss.
template <typename T>
cudaError_t bpr_loss_backward(const Triples<T>& t, const T* slope, const T* grad, const Grouped& users,
                              const Grouped& items, T* grad_users, T* grad_items, cudaStream_t stream);

}  // namespace mmfast
