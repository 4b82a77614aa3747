// project_rows on CUDA: rows are gathered in blocks that stay in the device's cache, and multiplied by cuBLAS.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "../project_checks.h"
#include "bind.h"

namespace mmfast {
namespace {

constexpr int64_t kBlockBytes = int64_t{32} << 20;  // of gathered rows

at::Tensor checked_rows(const char* op, const at::Tensor& table, const at::Tensor& rows, cudaStream_t stream) {
  check_projected(table, rows, op);
  const at::Tensor ids = rows.contiguous();
  check_device_ids(ids, table.size(0), op, "rows", stream);
  check_on_device(
      [&] { return device_check_rising(ids.const_data_ptr<int64_t>(), ids.numel(), label_of(op, "rows"), stream); },
      [&] { check_rising(ids.cpu(), op); });
  return ids;
}

// Calls body(first, gathered rows [first, first + n)).
template <typename Body>
void for_blocks(const at::Tensor& table, const at::Tensor& rows, const Body& body) {
  const int64_t row_bytes = std::max<int64_t>(1, table.size(1) * table.element_size());
  const int64_t step = std::max<int64_t>(1, kBlockBytes / row_bytes);
  for (int64_t first = 0; first < rows.numel(); first += step) {
    const int64_t count = std::min(step, rows.numel() - first);
    body(first, at::index_select(table, 0, rows.narrow(0, first, count)));
  }
}

at::Tensor project_rows(const at::Tensor& table, const at::Tensor& rows, const at::Tensor& weight) {
  const char* op = "project_rows";
  const DeviceScope scope(table);
  const at::Tensor ids = checked_rows(op, table, rows, scope.stream());
  check_factor(weight, 1, table.size(1), table, op, "weight");
  const at::Tensor out = at::empty({ids.numel(), weight.size(0)}, weight.options());
  for_blocks(table, ids, [&](int64_t first, const at::Tensor& block) {
    at::Tensor part = out.narrow(0, first, block.size(0));
    at::mm_out(part, block, weight.t());
  });
  return out;
}

at::Tensor project_rows_weight(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& rows) {
  const char* op = "project_rows_weight";
  const DeviceScope scope(table);
  const at::Tensor ids = checked_rows(op, table, rows, scope.stream());
  check_factor(grad, 0, ids.numel(), table, op, "grad");
  at::Tensor out = at::zeros({grad.size(1), table.size(1)}, grad.options());
  for_blocks(table, ids, [&](int64_t first, const at::Tensor& block) {
    at::addmm_out(out, out, grad.narrow(0, first, block.size(0)).t(), block);
  });
  return out;
}

}  // namespace

MMFAST_CUDA_LIBRARY(m) {
  m.impl("project_rows", &project_rows);
  m.impl("project_rows_weight", &project_rows_weight);
}

}  // namespace mmfast
