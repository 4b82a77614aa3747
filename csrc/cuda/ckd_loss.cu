// CKD's distillation: weights by one block, then every margin's loss and slope, then the sum of the blocks' sums.
#include "ckd_loss.h"
#include "rows.h"

namespace mmfast {
namespace {

// A bound that a share without meaning, 0 / 0, meets at its lower end.
template <typename T>
__device__ T bounded(T share) {
  return share > T(1e-8) ? (share < T(10) ? share : T(10)) : T(1e-8);
}

// The paper's shares, one a modality, from means over the batch.
template <typename T>
__device__ void paper_weights(const CkdMargins<T>& in, double* weight) {
  double total = 0;
  for (int64_t m = 0; m < in.modalities; ++m) {
    double gain = 0, teacher = 0;
    for (int64_t b = threadIdx.x; b < in.count; b += kRowThreads) {
      gain += static_cast<double>(in.margin[b]) - static_cast<double>(in.masked[m * in.count + b]);
      teacher += static_cast<double>(in.teacher[m * in.count + b]);
    }
    const double size = static_cast<double>(in.count);
    gain = block_sum(gain) / size;
    teacher = block_sum(teacher) / size;
    const double share = bounded(gain / (teacher > 1e-8 ? teacher : 1e-8));
    if (threadIdx.x == 0) weight[m] = share;
    total += share;
  }
  for (int64_t m = 0; threadIdx.x == 0 && m < in.modalities; ++m) weight[m] = 1 - weight[m] / total;
}

// The released code's, two a triple, of sum 2, against the student's own margins; their mean is for the report.
template <typename T>
__device__ void code_weights(const CkdMargins<T>& in, double* weight, T* each) {
  double sums[2] = {0, 0};
  for (int64_t b = threadIdx.x; b < in.count; b += kRowThreads) {
    const T first = bounded((in.margin[b] - in.masked[b]) / in.student[b]);
    const T second = bounded((in.margin[b] - in.masked[in.count + b]) / in.student[in.count + b]);
    each[b] = 2 * second / (first + second);
    each[in.count + b] = 2 * first / (first + second);
    sums[0] += static_cast<double>(each[b]);
    sums[1] += static_cast<double>(each[in.count + b]);
  }
  for (int m = 0; m < 2; ++m) {
    const double mean = block_sum(sums[m]) / static_cast<double>(in.count);
    if (threadIdx.x == 0) weight[m] = mean;
  }
}

template <typename T>
__global__ void weights_kernel(CkdMargins<T> in, CkdWeights kind, double* weight, T* each, T* weights) {
  if (kind == CkdWeights::kPaper) {
    paper_weights(in, weight);
  } else if (kind == CkdWeights::kCode) {
    code_weights(in, weight, each);
  } else {
    const double value = kind == CkdWeights::kOnes ? 1 : 1 - 1 / static_cast<double>(in.modalities);
    for (int64_t m = 0; threadIdx.x == 0 && m < in.modalities; ++m) weight[m] = value;
  }
  for (int64_t m = 0; threadIdx.x == 0 && m < in.modalities; ++m) weights[m] = static_cast<T>(weight[m]);
}

// Cross-entropy of sigmoid(student / tau) under sigmoid(teacher / tau), and its derivative by student.
template <typename T>
__device__ T cross_entropy(T teacher, T student, T inverse_tau, T eps, T* slope) {
  const T t = teacher * inverse_tau, z = student * inverse_tau;
  const T small_t = std::exp(-std::abs(t)), small = std::exp(-std::abs(z));
  const T a = (t < 0 ? small_t : T(1)) / (1 + small_t), b = (z < 0 ? small : T(1)) / (1 + small);
  if (eps == 0) {
    *slope = (b - a) * inverse_tau;
    return (z > 0 ? z : T(0)) - a * z + std::log1p(small);
  }
  const T rest = (z < 0 ? T(1) : small) / (1 + small);
  *slope = -inverse_tau * (a / (b + eps) - (1 - a) / (rest + eps)) * b * rest;
  return -(a * std::log(b + eps) + (1 - a) * std::log(rest + eps));
}

template <typename T>
__device__ T specific_loss(T teacher, T student, const CkdOptions& options, T* slope) {
  if (options.specific == CkdSpecific::kCrossEntropy) {
    return cross_entropy(teacher, student, static_cast<T>(options.inverse_tau), static_cast<T>(options.eps), slope);
  }
  const T gap = teacher - student;
  const bool square = options.specific == CkdSpecific::kSquare;
  *slope = square ? -2 * gap : gap > 0 ? T(-1) : T(0);
  return square ? gap * gap : gap <= 0 ? T(0) : gap;
}

template <typename T>
__global__ void loss_kernel(CkdMargins<T> in, CkdOptions options, const double* weight, const T* each, double* sums,
                            T* slope, T* universal_slope) {
  double sum = 0;
  T derivative = 0;
  for (int64_t i = first_item(); i < in.modalities * in.count; i += item_step()) {
    const double w = (each ? static_cast<double>(each[i]) : weight[i / in.count]) / static_cast<double>(in.count);
    sum += w * static_cast<double>(specific_loss(in.teacher[i], in.student[i], options, &derivative));
    slope[i] = static_cast<T>(w) * derivative;
  }
  for (int64_t i = first_item(); i < in.modalities * in.universal; i += item_step()) {
    const double w = options.generic_weight * weight[i / in.universal] / static_cast<double>(in.universal);
    sum += w * static_cast<double>(cross_entropy(in.universal_teacher[i], in.universal_student[i],
                                                 static_cast<T>(options.inverse_tau), static_cast<T>(options.eps),
                                                 &derivative));
    universal_slope[i] = static_cast<T>(w) * derivative;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

template <typename T>
cudaError_t ckd_loss_forward(const CkdMargins<T>& in, const CkdOptions& options, double* weight, T* each, double* sums,
                             T* loss, T* weights, T* slope, T* universal_slope, cudaStream_t stream) {
  const int64_t most = in.modalities * std::max(in.count, in.universal);
  const int64_t blocks = std::min(blocks_for(most, kRowThreads), kCkdSums);
  MMFAST_LAUNCH(weights_kernel<T>, 1, kRowThreads, 0, stream, in, options.weights, weight, each, weights);
  const T* per_triple = options.weights == CkdWeights::kCode ? each : nullptr;
  MMFAST_LAUNCH(loss_kernel<T>, blocks, kRowThreads, 0, stream, in, options, weight, per_triple, sums, slope,
                universal_slope);
  MMFAST_LAUNCH(sum_kernel<T>, 1, kRowThreads, 0, stream, sums, blocks, 1.0, loss);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T)                                                                                          \
  template cudaError_t ckd_loss_forward(const CkdMargins<T>&, const CkdOptions&, double*, T*, double*, T*, T*, T*, T*, \
                                        cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
