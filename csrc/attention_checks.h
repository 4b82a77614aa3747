// Arguments of edge_attention, checked alike on every device.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "attention.h"
#include "check.h"

namespace mmfast {

inline void check_num_entries(const at::Tensor& cols, const char* op) {
  TORCH_CHECK(cols.numel() < (int64_t{1} << 31), op, ": there are ", cols.numel(), " entries; wanted less than 2^31");
}

// The entries by row and by column; the device checks them.
struct AttentionEntries {
  at::Tensor ptr, cols, ptr_t, rows_t, edges_t;
};

// The arguments of both passes, contiguous; the tables are checked here.
class AttentionArguments {
 public:
  AttentionArguments(const char* op, const AttentionEntries& entries, const std::optional<at::Tensor>& choice,
                     const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
      : entries_(entries), q_(q.contiguous()), k_(k.contiguous()), v_(v.contiguous()) {
    const int64_t columns = entries.ptr_t.numel() - 1;
    if (choice) {
      check_dim(*choice, 1, op, "choice");
      check_size(*choice, 0, entries.cols.numel(), op, "choice");
      check_dtype(*choice, at::kBool, op, "choice");
      check_device(*choice, q, op, "choice");
      choice_ = choice->contiguous();
    }
    check_real(q, op, "q");
    check_table(q, entries.ptr.numel() - 1, op, "q");
    check_table(k, choice ? 2 * columns : columns, op, "k");
    check_table(v, choice ? 2 * columns : columns, op, "v");
    check_size(k, 1, q.size(1), op, "k");
  }

  template <typename T>
  Attention<T> view(double scale) const {
    Attention<T> a{};
    a.ptr = entries_.ptr.const_data_ptr<int64_t>(), a.ptr_t = entries_.ptr_t.const_data_ptr<int64_t>();
    a.cols = entries_.cols.const_data_ptr<int32_t>(), a.rows_t = entries_.rows_t.const_data_ptr<int32_t>();
    a.edges_t = entries_.edges_t.const_data_ptr<int32_t>();
    a.choice = choice_.defined() ? choice_.const_data_ptr<bool>() : nullptr;
    a.num_rows = entries_.ptr.numel() - 1, a.num_cols = entries_.ptr_t.numel() - 1;
    a.num_entries = entries_.cols.numel();
    a.q = q_.const_data_ptr<T>(), a.k = k_.const_data_ptr<T>(), a.v = v_.const_data_ptr<T>();
    a.dim = q_.size(1), a.dim_v = v_.size(1);
    a.scale = static_cast<T>(scale);
    return a;
  }

 private:
  void check_table(const at::Tensor& t, int64_t rows, const char* op, const char* name) const {
    check_dim(t, 2, op, name);
    check_size(t, 0, rows, op, name);
    check_like(t, q_, op, name);
  }

  AttentionEntries entries_;
  at::Tensor choice_, q_, k_, v_;
};

// alpha, or a gradient that may be absent; contiguous.
inline at::Tensor checked_like(const std::optional<at::Tensor>& t, at::IntArrayRef sizes, const at::Tensor& q,
                               const char* op, const char* name) {
  if (!t) return {};
  check_like(*t, q, op, name);
  TORCH_CHECK(t->sizes() == sizes, op, ": ", name, " is ", t->sizes(), "; wanted ", sizes);
  return t->contiguous();
}

}  // namespace mmfast
