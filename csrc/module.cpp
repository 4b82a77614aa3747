// Every op's schema on one page, and the Python module that carries them. Kernels register themselves from cpu/ and
// cuda/.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/exp.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

TORCH_LIBRARY(mmfast, m) {
  // Graphs are CSR: ptr int64 [N+1], cols int32 [E]; an entry is values[e] (or 1) * row_scale[row] * col_scale[col].
  // `*_t` is the transposed graph, the same tensors where the operator is symmetric. propagate_backward takes the
  // transposed operator whole: its row_scale is the forward's col_scale.
  m.def(
      "propagate(Tensor ptr, Tensor cols, Tensor? values, Tensor ptr_t, Tensor cols_t, Tensor? values_t, "
      "Tensor? row_scale, Tensor? col_scale, Tensor x, int num_layers, str readout) -> Tensor");
  m.def(
      "propagate_rows(Tensor ptr, Tensor cols, Tensor? values, Tensor ptr_t, Tensor cols_t, Tensor? values_t, "
      "Tensor? row_scale, Tensor? col_scale, Tensor x, Tensor rows, int num_layers, str readout) -> (Tensor, Tensor)");
  m.def(
      "propagate_backward(Tensor ptr_t, Tensor cols_t, Tensor? values_t, Tensor? row_scale, Tensor? col_scale, "
      "Tensor grad, Tensor? grad_input_rows, Tensor? rows, int num_layers, str readout) -> Tensor");

  m.def(
      "bpr_loss(Tensor users, Tensor items, Tensor user_index, Tensor pos_index, Tensor neg_index, str kind) "
      "-> (Tensor, Tensor)");
  m.def(
      "bpr_loss_backward(Tensor grad, Tensor slope, Tensor users, Tensor items, Tensor user_index, Tensor pos_index, "
      "Tensor neg_index) -> (Tensor, Tensor)");

  // u . (p - n) of every triple; the gradient is that of bpr_loss with grad 1 and the slope of each triple.
  m.def("triple_margins(Tensor users, Tensor items, Tensor user_index, Tensor pos_index, Tensor neg_index) -> Tensor");

  // The losses below return what their gradient is made of beside their value: slopes are derivatives by an argument,
  // slope_backward is a slope times the gradient of its loss, a scalar or [B].
  m.def("slope_backward(Tensor grad, Tensor slope) -> Tensor");
  // info_nce: loss [B] per anchor of x over the rows of y without row skip[b]; their softmax [2, B], the highest score
  // and the sum of exp(score - highest); slope [B, D] of x, empty unless wanted.
  m.def(
      "info_nce(Tensor x, Tensor y, Tensor index, Tensor? skip, float temperature, bool normalize, bool want_slope) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "info_nce_backward(Tensor grad, Tensor softmax, Tensor x, Tensor y, Tensor index, Tensor? skip, float "
      "temperature, "
      "bool normalize) -> Tensor");

  // KL [B] per user, summed over content [M, B, D]; as above the softmax [2, 1 + M, B], of the IDs first; the slope
  // [B, D] of users.
  m.def("transfer_kl(Tensor users, Tensor items, Tensor content, float temperature) -> (Tensor, Tensor, Tensor)");
  m.def(
      "transfer_kl_backward(Tensor grad, Tensor softmax, Tensor users, Tensor items, Tensor content, float "
      "temperature) "
      "-> Tensor");

  // Margins [B] and [M, B] of the training triples, [M, G] of the universal ones: loss, weights, slopes of the
  // students.
  m.def(
      "ckd_loss(Tensor margin, Tensor student, Tensor masked, Tensor teacher, Tensor universal_student, "
      "Tensor universal_teacher, float generic_weight, float temperature, float eps, str specific, str weights) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  // Ragged rows are CSR-like: ptr int64 [R+1] into the rows of aux. The loss, the slopes of image_target and image_aux.
  m.def(
      "target_contrast(Tensor image_target, Tensor image_aux, Tensor image_ptr, Tensor text_target, Tensor text_aux, "
      "Tensor text_ptr, float temperature, bool with_positive) -> (Tensor, Tensor, Tensor)");
  // [target || softmax-weighted sum of aux] [R, 2D] and the softmax weights; gradients of aux (or empty) and attention.
  m.def("target_pool(Tensor target, Tensor aux, Tensor ptr, Tensor attention) -> (Tensor, Tensor)");
  m.def(
      "target_pool_backward(Tensor grad, Tensor weights, Tensor aux, Tensor ptr, Tensor attention, bool want_aux) "
      "-> (Tensor, Tensor)");

  // Mean of 1 - cos(x_r, y_r) and its slopes; mean and unbiased variance [2] of all entries.
  m.def("cosine_loss(Tensor x, Tensor y) -> (Tensor, Tensor, Tensor)");
  m.def("moments(Tensor x) -> Tensor");
  m.def("moments_backward(Tensor grad, Tensor moments, Tensor x) -> Tensor");

  // table[rows] @ weight^T, and the gradient of weight [D, F].
  m.def("project_rows(Tensor table, Tensor rows, Tensor weight) -> Tensor");
  m.def("project_rows_weight(Tensor grad, Tensor table, Tensor rows) -> Tensor");

  m.def("gathered_norm(Tensor table, Tensor index) -> (Tensor, Tensor)");
  m.def("gathered_norm_backward(Tensor grad, Tensor norm, Tensor counts, Tensor table) -> Tensor");

  m.def("compact_ids(Tensor ids, int num_rows) -> (Tensor, Tensor)");
  m.def(
      "sample_negatives(Tensor users, Tensor user_ptr, Tensor user_items, Tensor candidates, int seed, int offset) "
      "-> Tensor");
  m.def("sample_edges(Tensor weights, int num_kept, int seed, int stream) -> Tensor");

  m.def("knn_graph(Tensor features, int k, bool include_self, str metric, int block_bytes) -> (Tensor, Tensor)");
  m.def(
      "rank(Tensor users, Tensor items, Tensor mask_ptr, Tensor mask_items, Tensor target_ptr, Tensor target_items, "
      "int k) -> (Tensor, Tensor, Tensor)");

  m.def(
      "adam_rows_(Tensor(a!) param, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, Tensor grad, float lr, "
      "float beta1, float beta2, float eps, float weight_decay, int step) -> ()");
}

namespace py = pybind11;

namespace {

// glibc gives large blocks back to the system when they are freed, and every training step then pays page faults for
// the same tables again: more than the products that fill them. Returns whether the C library has the setting.
bool keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kNever = 1 << 30;
  return mallopt(M_MMAP_THRESHOLD, kNever) == 1 && mallopt(M_TRIM_THRESHOLD, kNever) == 1;
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native ops of mmfast; they are called through torch.ops.mmfast.";
  m.def("keep_freed_memory", &keep_freed_memory,
        "Let this process reuse large freed blocks instead of returning them.");
  m.def(
      "exp_",
      [](const py::buffer& numbers) {
        const py::buffer_info info = numbers.request(true);
        const bool single = info.item_type_is_equivalent_to<float>();
        if (info.ndim != 1 || info.strides[0] != info.itemsize ||
            !(single || info.item_type_is_equivalent_to<double>())) {
          throw py::value_error("exp_: wanted a contiguous array [n] of float32 or float64");
        }
        single ? mmfast::exp_in_place(static_cast<float*>(info.ptr), info.size)
               : mmfast::exp_in_place(static_cast<double*>(info.ptr), info.size);
      },
      "Replace every number x <= 0 of an array [n] by exp(x): the exponential of the CPU kernels, for its test.");
  m.def("build_info", [] {
    py::dict info;
    info["torch"] = TORCH_VERSION;
    info["compiler"] = __VERSION__;
#ifdef MMFAST_WITH_CUDA
    info["cuda"] = MMFAST_WITH_CUDA;  // "run": callable kernels; "compiled": linked as a check, torch has no CUDA
#else
    info["cuda"] = "";
#endif
    return info;
  });
}
