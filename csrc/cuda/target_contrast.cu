// TargetMR's contrast (Eq. 19): a warp per item walks over its auxiliaries twice, for the loss and for the slopes.
#include "rows.h"
#include "target_contrast.h"

namespace mmfast {
namespace {

constexpr double kEps = 1e-8;  // least length of a vector in a cosine

// One over the number of items that have auxiliaries.
__global__ void count_kernel(const int64_t* image_ptr, const int64_t* text_ptr, int64_t rows, double* scale) {
  double counted = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kRowThreads) {
    counted += image_ptr[r + 1] + text_ptr[r + 1] > image_ptr[r] + text_ptr[r] ? 1 : 0;
  }
  counted = block_sum(counted);
  if (threadIdx.x == 0) *scale = 1 / (counted > 0 ? counted : 1);
}

// A softmax over one side's logits, from their highest: log_sum is the log-sum-exp.
template <typename T>
struct Side {
  T log_sum, positive;
};

template <typename T>
__device__ T cosine(const T* anchor, T inverse, const T* other, T other_inverse, int64_t dim) {
  return warp_dot(anchor, other, dim) * inverse * other_inverse;
}

template <typename T>
__device__ Side<T> side_of(const ContrastItems<T>& in, const T* anchor, T inverse, const T* aux, int64_t begin,
                           int64_t end, T positive) {
  T highest = in.with_positive ? positive : static_cast<T>(-INFINITY), sum = in.with_positive ? T(1) : T(0);
  for (int64_t k = begin; k < end; ++k) {
    const T* other = aux + k * in.dim;
    const T logit = cosine(anchor, inverse, other, inverse_length(other, in.dim, T(kEps)), in.dim) * in.inverse_tau;
    const T before = highest;
    highest = logit > highest ? logit : highest;
    sum = sum * std::exp(before - highest) + std::exp(logit - highest);
  }
  const T log_sum = highest + std::log(sum);
  return {log_sum, in.with_positive ? std::exp(positive - log_sum) : T(0)};
}

// slope += c * unit of every auxiliary, c its share; writes the auxiliaries' own slopes where they are wanted.
template <typename T>
__device__ void add_slopes(const ContrastItems<T>& in, const T* anchor, T inverse, const T* aux, int64_t begin,
                           int64_t end, T log_sum, T factor, T* slope, T* slope_aux) {
  for (int64_t k = begin; k < end; ++k) {
    const T *other = aux + k * in.dim, other_inverse = inverse_length(other, in.dim, T(kEps));
    const T logit = cosine(anchor, inverse, other, other_inverse, in.dim) * in.inverse_tau;
    const T c = factor * std::exp(logit - log_sum);
    for (int64_t d = lane_of(); d < in.dim; d += kWarp) {
      slope[d] += c * other[d] * other_inverse;
      if (slope_aux) slope_aux[k * in.dim + d] = c * anchor[d] * inverse;
    }
    if (slope_aux) unit_backward(other, other_inverse, T(kEps), in.dim, slope_aux + k * in.dim);
  }
}

template <typename T>
__global__ void contrast_kernel(ContrastItems<T> in, const double* scale, double* each, T* slope_target, T* slope_aux) {
  for (int64_t r = first_row(); r < in.rows; r += row_step()) {
    const T *anchor = in.image_target + r * in.dim, *text = in.text_target + r * in.dim;
    const int64_t image = in.image_ptr[r], image_end = in.image_ptr[r + 1];
    const int64_t words = in.text_ptr[r], words_end = in.text_ptr[r + 1];
    const bool no_images = image == image_end, no_texts = words == words_end, none = no_images && no_texts;
    T* slope = slope_target + r * in.dim;
    const T inverse = inverse_length(anchor, in.dim, T(kEps)), text_inverse = inverse_length(text, in.dim, T(kEps));
    const T positive = cosine(anchor, inverse, text, text_inverse, in.dim) * in.inverse_tau;
    const Side<T> a = side_of(in, anchor, inverse, in.image_aux, image, image_end, positive);
    const Side<T> b = side_of(in, anchor, inverse, in.text_aux, words, words_end, positive);
    // ln(e^-A + e^-B) of the two sides, or that of the only one; an empty side has no ratio.
    const T low = no_images ? b.log_sum : no_texts || a.log_sum < b.log_sum ? a.log_sum : b.log_sum;
    const T gap = no_images || no_texts ? T(0) : std::exp(-std::abs(a.log_sum - b.log_sum));
    const bool image_leads = no_texts || (!no_images && a.log_sum <= b.log_sum);
    const T larger = 1 / (1 + gap), smaller = gap / (1 + gap);
    const T by_image = image_leads ? larger : smaller, by_text = image_leads ? smaller : larger;
    const T by_logit = in.inverse_tau * static_cast<T>(*scale);
    if (lane_of() == 0) each[r] = none ? 0 : static_cast<double>(low - positive - std::log1p(gap));
    const T by_positive = none ? T(0) : (by_image * a.positive + by_text * b.positive - 1) * by_logit;
    for (int64_t d = lane_of(); d < in.dim; d += kWarp) slope[d] = by_positive * text[d] * text_inverse;
    add_slopes(in, anchor, inverse, in.image_aux, image, image_end, a.log_sum, by_image * by_logit, slope, slope_aux);
    add_slopes(in, anchor, inverse, in.text_aux, words, words_end, b.log_sum, by_text * by_logit, slope,
               static_cast<T*>(nullptr));
    unit_backward(anchor, inverse, T(kEps), in.dim, slope);
  }
}

template <typename T>
__global__ void mean_kernel(const double* each, int64_t rows, const double* scale, T* loss) {
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kRowThreads) sum += each[r];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = static_cast<T>(*scale * sum);
}

}  // namespace

template <typename T>
cudaError_t target_contrast_forward(const ContrastItems<T>& in, double* each, double* scale, T* loss, T* slope_target,
                                    T* slope_aux, cudaStream_t stream) {
  MMFAST_LAUNCH(count_kernel, 1, kRowThreads, 0, stream, in.image_ptr, in.text_ptr, in.rows, scale);
  MMFAST_LAUNCH(contrast_kernel<T>, blocks_for(in.rows, kRowWarps), kRowThreads, 0, stream, in, scale, each,
                slope_target, slope_aux);
  MMFAST_LAUNCH(mean_kernel<T>, 1, kRowThreads, 0, stream, each, in.rows, scale, loss);
  return cudaGetLastError();
}

#define MMFAST_INSTANTIATE(T) \
  template cudaError_t target_contrast_forward(const ContrastItems<T>&, double*, double*, T*, T*, T*, cudaStream_t);
MMFAST_INSTANTIATE(float)
MMFAST_INSTANTIATE(double)

}  // namespace mmfast
