// CKD's distillation: specific loss on training triples, generic loss on universal ones, counterfactual weights.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <vector>

#include "../loss_checks.h"
#include "logistic.h"

namespace mmfast {
namespace {

constexpr int64_t kBlock = 512;  // margins are summed in blocks of this size, then the blocks in order
// A bound that a share without meaning, 0 / 0, meets at its lower end.
template <typename T>
MMFAST_INLINE T bounded(T share) {
  return share > T(1e-8) ? std::min(share, T(10)) : T(1e-8);
}

// One vector of the cross-entropy of b = sigmoid(student / tau) under a = sigmoid(teacher / tau), softplus(z) - a z,
// times weight, is added to sum; slope becomes weight * scale * its derivative by student.
template <typename T>
MMFAST_INLINE void cross_entropy_vector(const T* teacher, const T* student, const T* weight, T inverse_tau, T scale,
                                        typename Simd<T>::Vector& sum, T* slope) {
  typename Simd<T>::Vector a, b, t = Simd<T>::at(teacher) * inverse_tau;
  const typename Simd<T>::Vector z = Simd<T>::at(student) * inverse_tau;
  typename Simd<T>::Vector loss = z;
  softplus_vector<T>(t, a);
  softplus_vector<T>(loss, b);
  loss -= a * z;
  b = (b - a) * (inverse_tau * scale);
  sum += weight ? loss * Simd<T>::at(weight) : loss;
  Simd<T>::at(slope) = weight ? b * Simd<T>::at(weight) : b;
}

// Sum of weight[i] * cross-entropy, without weights all are one; slope[i] = weight[i] * scale * its derivative.
template <typename T>
MMFAST_CLONES double cross_entropy(const T* teacher, const T* student, const T* weight, int64_t count, T inverse_tau,
                                   T scale, T* slope) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    cross_entropy_vector(teacher + i, student + i, weight ? weight + i : weight, inverse_tau, scale, sum, slope + i);
  }
  if (i < count) {
    T rest[4][kLanes] = {};  // the weights of the padding are zero
    std::copy_n(teacher + i, count - i, rest[0]);
    std::copy_n(student + i, count - i, rest[1]);
    for (int64_t lane = 0; lane < count - i; ++lane) rest[2][lane] = weight ? weight[i + lane] : T(1);
    cross_entropy_vector(rest[0], rest[1], rest[2], inverse_tau, scale, sum, rest[3]);
    std::copy_n(rest[3], count - i, slope + i);
  }
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

// The same of -[a ln(b + eps) + (1 - a) ln(1 - b + eps)], the form of the released code.
template <typename T>
double cross_entropy_eps(const T* teacher, const T* student, const T* weight, int64_t count, T inverse_tau, T eps,
                         T scale, T* slope) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T z = student[i] * inverse_tau, w = weight ? weight[i] : T(1);
    const T a = 1 / (1 + std::exp(-teacher[i] * inverse_tau)), b = 1 / (1 + std::exp(-z)), rest = 1 / (1 + std::exp(z));
    sum -= static_cast<double>(w) * (a * std::log(b + eps) + (1 - a) * std::log(rest + eps));
    slope[i] = -w * scale * inverse_tau * (a / (b + eps) - (1 - a) / (rest + eps)) * b * rest;
  }
  return sum;
}

template <typename T>
MMFAST_CLONES double hinge(const T* teacher, const T* student, const T* weight, int64_t count, T scale, T* slope) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T gap = teacher[i] - student[i], w = weight ? weight[i] : T(1);
    sum += gap > 0 ? static_cast<double>(w) * gap : gap <= 0 ? 0 : gap;  // NaN stays
    slope[i] = gap > 0 ? -w * scale : T(0);
  }
  return sum;
}

template <typename T>
MMFAST_CLONES double square(const T* teacher, const T* student, const T* weight, int64_t count, T scale, T* slope) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T gap = student[i] - teacher[i], w = weight ? weight[i] : T(1);
    sum += static_cast<double>(w) * gap * gap;
    slope[i] = 2 * w * scale * gap;
  }
  return sum;
}

// Sum over blocks of body(first, count), blocks in parallel, added in order.
template <typename Body>
double blocked_sum(int64_t size, const Body& body) {
  std::vector<double> sums((size + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sums[b] = body(b * kBlock, std::min(kBlock, size - b * kBlock));
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// The paper's weights: one a modality, from the means over the batch.
template <typename T>
void paper_weights(const CkdMargins<T>& in, double* mean) {
  std::vector<double> share(in.modalities);
  double total = 0;
  for (int64_t m = 0; m < in.modalities; ++m) {
    double gain = 0, teacher = 0;
    for (int64_t b = 0; b < in.count; ++b) {
      gain += static_cast<double>(in.margin[b]) - in.masked[m * in.count + b];
      teacher += in.teacher[m * in.count + b];
    }
    share[m] = bounded(gain / static_cast<double>(in.count) / std::max(teacher / static_cast<double>(in.count), 1e-8));
    total += share[m];
  }
  for (int64_t m = 0; m < in.modalities; ++m) mean[m] = 1 - share[m] / total;
}

// The released code's: two a triple, of sum 2, against the student's own margins; each written, their mean returned.
template <typename T>
void code_weights(const CkdMargins<T>& in, T* weight, double* mean) {
  mean[0] = mean[1] = 0;
  for (int64_t b = 0; b < in.count; ++b) {
    T share[2];
    for (int64_t m = 0; m < 2; ++m) {
      share[m] = bounded((in.margin[b] - in.masked[m * in.count + b]) / in.student[m * in.count + b]);
    }
    for (int64_t m = 0; m < 2; ++m) {
      weight[m * in.count + b] = 2 * share[1 - m] / (share[0] + share[1]);
      mean[m] += weight[m * in.count + b] / static_cast<double>(in.count);
    }
  }
}

template <typename T>
T run(const CkdMargins<T>& in, const CkdOptions& options, T* weights, T* slope, T* universal_slope) {
  std::vector<T> each(options.weights == CkdWeights::kCode ? in.modalities * in.count : 0);
  std::vector<double> mean(in.modalities, options.weights == CkdWeights::kOnes ? 1 : 1 - 1.0 / in.modalities);
  if (options.weights == CkdWeights::kPaper) paper_weights(in, mean.data());
  if (options.weights == CkdWeights::kCode) code_weights(in, each.data(), mean.data());
  const T inverse_tau = static_cast<T>(options.inverse_tau), eps = static_cast<T>(options.eps);
  double loss = 0;
  for (int64_t m = 0; m < in.modalities; ++m) {
    weights[m] = static_cast<T>(mean[m]);
    const double outer = (each.empty() ? mean[m] : 1) / static_cast<double>(in.count);
    loss += outer * blocked_sum(in.count, [&](int64_t first, int64_t count) {
              const int64_t at = m * in.count + first;
              const T *t = in.teacher + at, *s = in.student + at, *w = each.empty() ? nullptr : each.data() + at;
              const T scale = static_cast<T>(outer);
              if (options.specific == CkdSpecific::kHinge) return hinge(t, s, w, count, scale, slope + at);
              if (options.specific == CkdSpecific::kSquare) return square(t, s, w, count, scale, slope + at);
              if (options.eps == 0) return cross_entropy(t, s, w, count, inverse_tau, scale, slope + at);
              return cross_entropy_eps(t, s, w, count, inverse_tau, eps, scale, slope + at);
            });
    const double generic = options.generic_weight * mean[m] / static_cast<double>(in.universal);
    loss += generic * blocked_sum(in.universal, [&](int64_t first, int64_t count) {
              const int64_t at = m * in.universal + first;
              const T *t = in.universal_teacher + at, *s = in.universal_student + at, *w = nullptr;
              const T scale = static_cast<T>(generic);
              if (options.eps == 0) return cross_entropy(t, s, w, count, inverse_tau, scale, universal_slope + at);
              return cross_entropy_eps(t, s, w, count, inverse_tau, eps, scale, universal_slope + at);
            });
  }
  return static_cast<T>(loss);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> ckd_loss(
    const at::Tensor& margin, const at::Tensor& student, const at::Tensor& masked, const at::Tensor& teacher,
    const at::Tensor& universal_student, const at::Tensor& universal_teacher, double generic_weight, double temperature,
    double eps, std::string_view specific, std::string_view weights) {
  const CkdArguments arguments(margin, student, masked, teacher, universal_student, universal_teacher);
  const CkdOptions options = arguments.options(generic_weight, temperature, eps, specific, weights);
  at::Tensor loss = at::empty({}, student.options()), mean = at::empty({student.size(0)}, student.options());
  at::Tensor slope = at::empty(student.sizes(), student.options());
  at::Tensor universal_slope = at::empty(universal_student.sizes(), student.options());
  const auto go = [&]<typename T>(T) {
    *loss.mutable_data_ptr<T>() = run(arguments.view<T>(), options, mean.mutable_data_ptr<T>(),
                                      slope.mutable_data_ptr<T>(), universal_slope.mutable_data_ptr<T>());
  };
  student.scalar_type() == at::kDouble ? go(double{}) : go(float{});
  return {loss, mean, slope, universal_slope};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("ckd_loss", &ckd_loss); }

}  // namespace mmfast
