// Every op's schema on one page, and the Python module that carries them. Kernels register themselves from cpu/ and
// cuda/.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/exp.h"
#include "cpu/kept_memory.h"

TORCH_LIBRARY(mmfast, m) {
  // Graphs are CSR: ptr int64 [R+1], cols int32 [E] in [0, C); an entry is values[e] (or 1) * row_scale[row] (or 1) *
  // col_scale[col] (or 1). R = C except where there is one layer read out as "last". `*_t` is the transposed graph, the
  // same tensors where the operator is symmetric. Tables are float64, float32, or bfloat16/float16 with float32 values,
  // scales and sums; `dtype` float32 gives the read-out of a half table unrounded. propagate_backward takes the
  // transposed operator [C, R = num_rows] whole: its row_scale is the forward's col_scale; grad has x's dtype.
  m.def(
      "propagate(Tensor ptr, Tensor cols, Tensor? values, Tensor ptr_t, Tensor cols_t, Tensor? values_t, "
      "Tensor? row_scale, Tensor? col_scale, Tensor x, int num_layers, str readout, ScalarType? dtype=None) -> Tensor");
  m.def(
      "propagate_rows(Tensor ptr, Tensor cols, Tensor? values, Tensor ptr_t, Tensor cols_t, Tensor? values_t, "
      "Tensor? row_scale, Tensor? col_scale, Tensor x, Tensor rows, int num_layers, str readout, "
      "ScalarType? dtype=None) -> (Tensor, Tensor)");
  m.def(
      "propagate_backward(Tensor ptr_t, Tensor cols_t, Tensor? values_t, Tensor? row_scale, Tensor? col_scale, "
      "Tensor grad, Tensor? grad_input_rows, Tensor? rows, SymInt num_rows, int num_layers, str readout) -> Tensor");
  // d loss / d values [E] of one product A x: row_scale[r] * col_scale[c] * <grad[r], x[c]>, in values' dtype.
  m.def(
      "propagate_values_backward(Tensor ptr, Tensor cols, Tensor? row_scale, Tensor? col_scale, Tensor grad, Tensor x) "
      "-> Tensor");
  // alpha * (base + A x) with A [R, C], base [R, D] or zero: one layer on one rank's rows. Same bits as propagate.
  m.def(
      "propagate_step(Tensor ptr, Tensor cols, Tensor? values, Tensor? row_scale, Tensor? col_scale, Tensor x, "
      "Tensor? base, float alpha) -> Tensor");

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

  // A number that changes from call to call is a SymInt: a compiled graph then takes it as an argument.
  m.def("compact_ids(Tensor ids, int num_rows) -> (Tensor, Tensor)");
  m.def(
      "sample_negatives(Tensor users, Tensor user_ptr, Tensor user_items, Tensor candidates, SymInt seed, SymInt "
      "offset) "
      "-> Tensor");
  m.def("sample_edges(Tensor weights, SymInt num_kept, SymInt seed, SymInt stream) -> Tensor");
  // Draw s of entries b takes attempts i = 0, 1, ... from philox(seed, i, first_draw + s): word 0 chooses one of
  // `users`, words 1 and 2 what goes with it. An attempt that repeats a user of its draw is refused while num_entries
  // <= number of users. Rows are entries of user_ptr's lists, int64 [num_draws * num_entries]; triples int64 [3, same].
  m.def(
      "sample_user_rows(Tensor user_ptr, Tensor users, SymInt num_entries, SymInt num_draws, SymInt seed, SymInt "
      "first_draw) "
      "-> Tensor");
  m.def(
      "sample_triples(Tensor users, SymInt num_items, SymInt num_entries, SymInt num_draws, SymInt seed, SymInt "
      "first_draw) "
      "-> Tensor");

  // A graph's entries e by row (ptr, cols) and by column (ptr_t, rows_t, edges_t): the t-th entry of the transposed
  // graph lies in row rows_t[t] and is entry edges_t[t]. edge_attention: out_r = sum_e alpha_e v_e, alpha = softmax
  // over the row of scale <q_r, k_e>; k_e and v_e are rows cols[e] of the tables, or rows C + cols[e] where choice[e].
  m.def(
      "edge_attention(Tensor ptr, Tensor cols, Tensor ptr_t, Tensor rows_t, Tensor edges_t, Tensor? choice, Tensor q, "
      "Tensor k, Tensor v, float scale) -> (Tensor, Tensor)");
  m.def(
      "edge_attention_backward(Tensor ptr, Tensor cols, Tensor ptr_t, Tensor rows_t, Tensor edges_t, Tensor? choice, "
      "Tensor q, Tensor k, Tensor v, float scale, Tensor alpha, Tensor? grad_out, Tensor? grad_alpha) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("edge_softmax(Tensor ptr, Tensor logits) -> Tensor");
  m.def("edge_softmax_backward(Tensor ptr, Tensor grad, Tensor alpha) -> Tensor");
  // table[cols], and the sums of values over the entries of every column.
  m.def("edge_gather(Tensor cols, Tensor ptr_t, Tensor edges_t, Tensor table) -> Tensor");
  m.def("edge_sum(Tensor cols, Tensor ptr_t, Tensor edges_t, Tensor values) -> Tensor");

  // Orthonormal DCT-II (inverse: DCT-III) along the last axis, or the last two.
  m.def("dct(Tensor x, int axes, bool inverse) -> Tensor");

  // Lists: int32 ids, the best first, the lower id among equals, then -1 with similarity -inf. By cosine an all-zero
  // row is in no list but its own. precision: of the products that propose, "float32", "bfloat16" or "auto"; the lists
  // are the same. knn_update: the lists of the first rows are given, pairs with a later row are new. knn_above: every
  // other row with similarity > eta, as many as knn_count found, in slots ptr[row] .. ptr[row + 1].
  m.def(
      "knn_graph(Tensor features, int k, bool include_self, str metric, int block_bytes, str precision) "
      "-> (Tensor, Tensor)");
  m.def(
      "knn_update(Tensor features, Tensor neighbours, Tensor similarities, bool include_self, str metric, "
      "int block_bytes) -> (Tensor, Tensor)");
  m.def("knn_count(Tensor features, float eta, str metric, int block_bytes) -> Tensor");
  m.def("knn_above(Tensor features, float eta, Tensor ptr, str metric, int block_bytes) -> (Tensor, Tensor)");

  // candidates: ascending unique item ids, the only ones ranked; masks, targets and results are item ids all the same.
  m.def(
      "rank(Tensor users, Tensor items, Tensor mask_ptr, Tensor mask_items, Tensor target_ptr, Tensor target_items, "
      "Tensor? candidates, int k, str precision) -> (Tensor, Tensor, Tensor)");

  // step: one int64 on the device of the table, so that a captured graph may count it up.
  m.def(
      "adam_rows_(Tensor(a!) param, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, Tensor grad, float lr, "
      "float beta1, float beta2, float eps, float weight_decay, Tensor step) -> ()");

  // Row-lazy Adam. row_steps, int32 [N, 2]: the step up to which a row's parameters (0) and moments (1) are made; 0
  // for moments that are zero since the start. catch_up makes the zero-gradient steps up to `step`: of the parameters
  // of `rows` (any order, repeats allowed), or of everything where rows is None. lazy_ makes the steps before `step`
  // and then that step; its rows are sorted and unique.
  m.def(
      "adam_catch_up_(Tensor(a!) param, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) row_steps, "
      "Tensor? rows, float lr, float beta1, float beta2, float eps, Tensor step) -> ()");
  m.def(
      "adam_lazy_(Tensor(a!) param, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) row_steps, Tensor rows, "
      "Tensor grad, float lr, float beta1, float beta2, float eps, Tensor step) -> ()");

  // A copy of x [R, D]: the pattern of a new op, docs/adding_an_op.md.
  m.def("template_op(Tensor x) -> Tensor");
}

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native ops of mmfast; they are called through torch.ops.mmfast.";
  m.def("keep_freed_memory", &mmfast::keep_freed_memory, "Keep freed memory of CPU tensors for the tensors to come.");
  m.def("release_freed_memory", &mmfast::release_freed_memory, "Give what is free back to the system.");
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
