// TargetMR's contrast (Eq. 19) of every item's image target with its text target, against ragged auxiliaries.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "../loss_checks.h"
#include "edges.h"
#include "exp.h"
#include "row_blocks.h"
#include "unit_rows.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "target_contrast";
constexpr double kEps = 1e-8;  // least length of a vector in a cosine

template <typename T>
struct Items {
  const T *image_target, *image_aux, *text_target, *text_aux;
  const int64_t *image_ptr, *text_ptr;
  int64_t dim;
  T inverse_tau, scale;  // scale: 1 / (items that count), the mean's
  bool with_positive;
};

// Scratch of one worker: unit rows and cosines of one side of an item.
template <typename T>
struct Side {
  std::vector<T> units, inverse, weights;
  T log_sum = 0, positive = 0;  // log-sum-exp of the logits; the share of the positive in it
  int64_t count = 0;

  explicit Side(int64_t longest, int64_t dim) : units(longest * dim), inverse(longest), weights(longest) {}
};

// Fills a side: logits of the auxiliaries, and of the positive where it belongs to the denominator, to softmax weights.
template <typename T>
MMFAST_INLINE void fill_side(const Items<T>& in, const T* aux, int64_t count, const T* image, T positive,
                             Side<T>& side) {
  side.count = count;
  side.positive = 0;
  if (count == 0) return;
  const T none = -std::numeric_limits<T>::infinity();
  for (int64_t k = 0; k < count; ++k) {
    T* unit = side.units.data() + k * in.dim;
    side.inverse[k] = unit_row(aux + k * in.dim, in.dim, T(kEps), unit);
    side.weights[k] = dot(unit, image, in.dim) * in.inverse_tau;
  }
  const T highest = max_row(side.weights.data(), count, in.with_positive ? positive : none);
  T sum = exp_row(side.weights.data(), count, highest);
  if (in.with_positive) sum += side.positive = std::exp(positive - highest);
  side.log_sum = highest + std::log(sum);
  side.positive /= sum;
  for (int64_t k = 0; k < count; ++k) side.weights[k] /= sum;
}

// One item: its loss; slopes of its image target and of its image auxiliaries.
template <typename T>
MMFAST_CLONES T contrast(const Items<T>& in, int64_t r, Side<T>& image, Side<T>& text, T* scratch, T* slope_target,
                         T* slope_aux) {
  const int64_t dim = in.dim, begin = in.image_ptr[r], text_begin = in.text_ptr[r];
  const int64_t images = in.image_ptr[r + 1] - begin, texts = in.text_ptr[r + 1] - text_begin;
  T *unit = scratch, *anchor = scratch + dim, *slope = slope_target + r * dim;
  std::fill_n(slope, dim, T(0));
  if (images + texts == 0) return 0;
  const T inverse = unit_row(in.image_target + r * dim, dim, T(kEps), unit);
  unit_row(in.text_target + r * dim, dim, T(kEps), anchor);
  const T positive = dot(unit, anchor, dim) * in.inverse_tau;
  fill_side(in, in.image_aux + begin * dim, images, unit, positive, image);
  fill_side(in, in.text_aux + text_begin * dim, texts, unit, positive, text);
  // ln(e^-A + e^-B) of the two sides, or that of the only one; an empty side has no ratio.
  const T low = images == 0 ? text.log_sum : texts == 0 ? image.log_sum : std::min(image.log_sum, text.log_sum);
  const T gap = images == 0 || texts == 0 ? 0 : std::exp(-std::abs(image.log_sum - text.log_sum));
  const T smaller = images == 0 || texts == 0 ? 0 : gap / (1 + gap), larger = 1 / (1 + gap);
  const bool image_leads = texts == 0 || (images > 0 && image.log_sum <= text.log_sum);
  const T share[2] = {image_leads ? larger : smaller, image_leads ? smaller : larger};
  const T by_logit = in.inverse_tau * in.scale;
  const T by_positive = (share[0] * image.positive + share[1] * text.positive - 1) * by_logit;
  for (int64_t d = 0; d < dim; ++d) slope[d] = by_positive * anchor[d];
  for (const Side<T>* side : {&image, &text}) {
    for (int64_t k = 0; k < side->count; ++k) {
      const T c = share[side == &text] * side->weights[k] * by_logit, *other = side->units.data() + k * dim;
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) slope[d] += c * other[d];
      if (side == &text) continue;
      T* out = slope_aux + (begin + k) * dim;
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) out[d] = c * unit[d];
      unit_row_backward(other, T(1), side->inverse[k], dim, T(kEps), out);
    }
  }
  unit_row_backward(unit, T(1), inverse, dim, T(kEps), slope);
  return low - positive - std::log1p(gap);
}

int64_t longest_row(const int64_t* ptr, int64_t rows) {
  int64_t longest = 0;
  for (int64_t r = 0; r < rows; ++r) longest = std::max(longest, ptr[r + 1] - ptr[r]);
  return longest;
}

template <typename T>
T run(const Items<T>& in, int64_t rows, T* slope_target, T* slope_aux) {
  const int64_t images = longest_row(in.image_ptr, rows), texts = longest_row(in.text_ptr, rows);
  std::vector<double> sums(row_blocks(rows));
  for_row_blocks(rows, [&](int64_t block, int64_t first, int64_t last) {
    Side<T> image(images, in.dim), text(texts, in.dim);
    std::vector<T> scratch(2 * in.dim);
    for (int64_t r = first; r < last; ++r) {
      sums[block] += contrast(in, r, image, text, scratch.data(), slope_target, slope_aux);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return static_cast<T>(total * in.scale);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> target_contrast(const at::Tensor& image_target,
                                                               const at::Tensor& image_aux, const at::Tensor& image_ptr,
                                                               const at::Tensor& text_target,
                                                               const at::Tensor& text_aux, const at::Tensor& text_ptr,
                                                               double temperature, bool with_positive) {
  check_target_contrast(image_target, image_aux, text_target, text_aux, temperature, kOp);
  const int64_t rows = image_target.size(0), dim = image_target.size(1);
  const at::Tensor ptr[] = {checked_ptr(image_ptr, image_aux.size(0), kOp, "image_ptr"),
                            checked_ptr(text_ptr, text_aux.size(0), kOp, "text_ptr")};
  check_size(ptr[0], 0, rows + 1, kOp, "image_ptr");
  check_size(ptr[1], 0, rows + 1, kOp, "text_ptr");
  const at::Tensor all[] = {image_target.contiguous(), image_aux.contiguous(), text_target.contiguous(),
                            text_aux.contiguous()};
  const int64_t *images = ptr[0].const_data_ptr<int64_t>(), *texts = ptr[1].const_data_ptr<int64_t>();
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; ++r) counted += images[r + 1] + texts[r + 1] > images[r] + texts[r];
  at::Tensor loss = at::empty({}, image_target.options());
  at::Tensor slope_target = at::empty({rows, dim}, image_target.options());
  at::Tensor slope_aux = at::empty(image_aux.sizes(), image_aux.options());
  const auto go = [&]<typename T>(T) {
    const T scale = static_cast<T>(1.0 / static_cast<double>(std::max<int64_t>(1, counted)));
    const Items<T> in{all[0].const_data_ptr<T>(),
                      all[1].const_data_ptr<T>(),
                      all[2].const_data_ptr<T>(),
                      all[3].const_data_ptr<T>(),
                      images,
                      texts,
                      dim,
                      static_cast<T>(1 / temperature),
                      scale,
                      with_positive};
    *loss.mutable_data_ptr<T>() = run(in, rows, slope_target.mutable_data_ptr<T>(), slope_aux.mutable_data_ptr<T>());
  };
  image_target.scalar_type() == at::kDouble ? go(double{}) : go(float{});
  return {loss, slope_target, slope_aux};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) { m.impl("target_contrast", &target_contrast); }

}  // namespace mmfast
