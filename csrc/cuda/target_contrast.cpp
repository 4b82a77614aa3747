// target_contrast on CUDA: checks, allocation, dispatch by type.
#include "target_contrast.h"

#include <ATen/ops/empty.h>

#include <tuple>

#include "../loss_checks.h"
#include "edges.h"

namespace mmfast {
namespace {

constexpr const char* kOp = "target_contrast";

std::tuple<at::Tensor, at::Tensor, at::Tensor> target_contrast(const at::Tensor& image_target,
                                                               const at::Tensor& image_aux, const at::Tensor& image_ptr,
                                                               const at::Tensor& text_target,
                                                               const at::Tensor& text_aux, const at::Tensor& text_ptr,
                                                               double temperature, bool with_positive) {
  check_target_contrast(image_target, image_aux, text_target, text_aux, temperature, kOp);
  const int64_t rows = image_target.size(0), dim = image_target.size(1);
  const DeviceScope scope(image_target);
  const auto checked = [&](const at::Tensor& ptr, const at::Tensor& aux, const char* name) {
    check_size(ptr, 0, rows + 1, kOp, name);
    return checked_device_ptr(ptr, aux.size(0), aux, kOp, name, scope.stream());
  };
  const at::Tensor images = checked(image_ptr, image_aux, "image_ptr");
  const at::Tensor texts = checked(text_ptr, text_aux, "text_ptr");
  const at::Tensor all[] = {image_target.contiguous(), image_aux.contiguous(), text_target.contiguous(),
                            text_aux.contiguous()};
  const auto doubles = image_target.options().dtype(at::kDouble);
  const at::Tensor each = at::empty({rows}, doubles), scale = at::empty({}, doubles);
  const at::Tensor loss = at::empty({}, image_target.options());
  const at::Tensor slope_target = at::empty({rows, dim}, image_target.options());
  const at::Tensor slope_aux = at::empty(image_aux.sizes(), image_aux.options());
  const auto run = [&]<typename T>(T) {
    const ContrastItems<T> in{all[0].const_data_ptr<T>(),
                              all[1].const_data_ptr<T>(),
                              all[2].const_data_ptr<T>(),
                              all[3].const_data_ptr<T>(),
                              images.const_data_ptr<int64_t>(),
                              texts.const_data_ptr<int64_t>(),
                              rows,
                              dim,
                              static_cast<T>(1 / temperature),
                              with_positive};
    check(target_contrast_forward(in, each.mutable_data_ptr<double>(), scale.mutable_data_ptr<double>(),
                                  loss.mutable_data_ptr<T>(), slope_target.mutable_data_ptr<T>(),
                                  slope_aux.mutable_data_ptr<T>(), scope.stream()));
  };
  image_target.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, slope_target, slope_aux};
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) { m.impl("target_contrast", &target_contrast); }

}  // namespace mmfast
