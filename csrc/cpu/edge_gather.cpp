// A number of every entry's column, and the sums of numbers over the entries of every column: each the other's
// gradient.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "edges.h"
#include "table.h"

namespace mmfast {
namespace {

constexpr int64_t kGrain = 4096;  // rows a thread takes at least

template <typename T>
void gather(const at::Tensor& cols, const at::Tensor& table, at::Tensor& out) {
  const int32_t* col = cols.const_data_ptr<int32_t>();
  const T* in = table.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const int64_t width = table.size(1);
  at::parallel_for(0, cols.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      for (int64_t h = 0; h < width; ++h) to[e * width + h] = in[col[e] * width + h];
    }
  });
}

template <typename T>
void sum(const at::Tensor& ptr, const at::Tensor& edges, const at::Tensor& values, at::Tensor& out) {
  const int64_t *p = ptr.const_data_ptr<int64_t>(), width = values.size(1);
  const int32_t* edge = edges.const_data_ptr<int32_t>();
  const T* in = values.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  at::parallel_for(0, out.size(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      T* row = to + c * width;
      std::fill_n(row, width, T(0));
      for (int64_t t = p[c]; t < p[c + 1]; ++t) {
        for (int64_t h = 0; h < width; ++h) row[h] += in[edge[t] * width + h];
      }
    }
  });
}

at::Tensor edge_gather(const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& edges_t,
                       const at::Tensor& table) {
  const char* op = "edge_gather";
  check_dim(table, 2, op, "table");
  check_real(table, op, "table");
  check_size(table, 0, ptr_t.numel() - 1, op, "table");
  const at::Tensor col = checked_ids(cols, cols.numel(), table.size(0), op, "cols"), in = table.contiguous();
  at::Tensor out = empty_table({cols.numel(), table.size(1)}, table.options());
  table.scalar_type() == at::kFloat ? gather<float>(col, in, out) : gather<double>(col, in, out);
  return out;
}

at::Tensor edge_sum(const at::Tensor& cols, const at::Tensor& ptr_t, const at::Tensor& edges_t,
                    const at::Tensor& values) {
  const char* op = "edge_sum";
  check_dim(values, 2, op, "values");
  check_real(values, op, "values");
  const int64_t entries = values.size(0);
  const at::Tensor ptr = checked_ptr(ptr_t, entries, op, "ptr_t");
  const at::Tensor edge = checked_ids(edges_t, entries, entries, op, "edges_t"), in = values.contiguous();
  at::Tensor out = empty_table({ptr.numel() - 1, values.size(1)}, values.options());
  values.scalar_type() == at::kFloat ? sum<float>(ptr, edge, in, out) : sum<double>(ptr, edge, in, out);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("edge_gather", &edge_gather);
  m.impl("edge_sum", &edge_sum);
}

}  // namespace mmfast
