// TargetMR's contrast of image and text targets against ragged auxiliaries, on the device.
#pragma once
#include "runtime.h"

namespace mmfast {

template <typename T>
struct ContrastItems {
  const T *image_target, *image_aux, *text_target, *text_aux;
  const int64_t *image_ptr, *text_ptr;
  int64_t rows, dim;
  T inverse_tau;
  bool with_positive;
};

// each [rows] and scale [1] (one over the items that count) are scratch.
template <typename T>
cudaError_t target_contrast_forward(const ContrastItems<T>& in, double* each, double* scale, T* loss, T* slope_target,
                                    T* slope_aux, cudaStream_t stream);

}  // namespace mmfast
