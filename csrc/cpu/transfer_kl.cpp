// In-batch KL from the ID distribution of every user to those of several modalities, in tiles, scores read once.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "../loss_checks.h"
#include "exp.h"
#include "workers.h"

namespace mmfast {
namespace {

constexpr int64_t kUsers = 128;    // rows of a tile of scores
constexpr int64_t kColumns = 256;  // and its columns

// A softmax in the making: weights are exp(score - highest).
template <typename T>
struct Softmax {
  T highest = -std::numeric_limits<T>::infinity();
  double sum = 0;
};

// One user: the ID distribution, those of the modalities, and per modality the sum of ID weight * (z - w), where z and
// w are taken from their highest.
template <typename T>
struct User {
  Softmax<T> ids, content[kKlModalities];
  double gap[kKlModalities] = {};
};

// sum_c weight[c] * ((z[c] - z_shift) - (w[c] - w_shift))
template <typename T>
MMFAST_INLINE T weighted_gap(const T* weight, const T* z, T z_shift, const T* w, T w_shift, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  typename Simd<T>::Vector sum = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    sum += Simd<T>::at(weight + c) * ((Simd<T>::at(z + c) - z_shift) - (Simd<T>::at(w + c) - w_shift));
  }
  T total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  for (; c < count; ++c) total += weight[c] * ((z[c] - z_shift) - (w[c] - w_shift));
  return total;
}

// Scores z [rows, count] and w[m] [rows, count] become weights; rescale [1 + M, kUsers] receives what the sums of
// earlier tiles are to be multiplied with.
template <typename T>
MMFAST_CLONES void weigh(T* z, T* const* content, int64_t num_modalities, int64_t rows, int64_t count, User<T>* users,
                         T* rescale) {
  T weight[kColumns];
  for (int64_t r = 0; r < rows; ++r, z += count) {
    User<T>& user = users[r];
    const bool first = user.ids.sum == 0;
    const T highest = max_row(z, count, user.ids.highest), rise = first ? T(0) : highest - user.ids.highest;
    const double before = user.ids.sum;
    rescale[r] = first ? T(0) : std::exp(-rise);
    std::copy_n(z, count, weight);
    user.ids = {highest, before * rescale[r] + exp_row(weight, count, highest)};
    for (int64_t m = 0; m < num_modalities; ++m) {
      T* w = content[m] + r * count;
      Softmax<T>& other = user.content[m];
      const T top = max_row(w, count, other.highest), other_rise = first ? T(0) : top - other.highest;
      user.gap[m] =
          rescale[r] * (user.gap[m] + before * (other_rise - rise)) + weighted_gap(weight, z, highest, w, top, count);
      T& factor = rescale[(1 + m) * kUsers + r] = first ? T(0) : std::exp(-other_rise);
      other = {top, other.sum * factor + exp_row(w, count, top)};
    }
    std::copy_n(weight, count, z);
  }
}

// Where the softmax [2, 1 + M, num_users] of the first pass lies: highest scores, then sums.
template <typename T>
struct Saved {
  T* highest;
  int64_t num_users, num_tables;

  MMFAST_INLINE T& top(int64_t table, int64_t user) const { return highest[table * num_users + user]; }
  MMFAST_INLINE T& sum(int64_t table, int64_t user) const { return highest[(num_tables + table) * num_users + user]; }
};

// z becomes the ID distribution; w[m] becomes grad * (distribution of m - ID distribution), of users first + r.
template <typename T>
MMFAST_CLONES void slopes(T* z, T* const* content, int64_t rows, int64_t count, const Saved<const T>& saved,
                          int64_t first, const T* grad) {
  for (int64_t r = 0; r < rows; ++r) {
    T* ids = z + r * count;
    exp_row(ids, count, saved.top(0, first + r));
    const T share = 1 / saved.sum(0, first + r), g = grad[first + r];
    for (int64_t m = 1; m < saved.num_tables; ++m) {
      T* w = content[m - 1] + r * count;
      exp_row(w, count, saved.top(m, first + r));
      const T own = 1 / saved.sum(m, first + r);
#pragma GCC ivdep
      for (int64_t c = 0; c < count; ++c) w[c] = (w[c] * own - ids[c] * share) * g;
    }
  }
}

template <typename T>
class TransferKl {
 public:
  TransferKl(const at::Tensor& users, const at::Tensor& items, const at::Tensor& content, double temperature)
      : temperature_(static_cast<T>(temperature)),
        users_(at::div(users, temperature)),
        items_(items),
        content_(content.unbind(0)),
        size_(users.size(0)) {}

  void forward(T* loss, const Saved<T>& saved, const at::Tensor& slope) const {
    for_tiles(kUsers, [&](int64_t first, int64_t rows, std::vector<at::Tensor>& store) {
      std::vector<User<T>> seen(rows);
      std::vector<at::Tensor> sums;  // the weighted content rows: by the ID weights, by those of each modality
      for (int64_t m = 0; m < 2 * modalities(); ++m) sums.push_back(at::empty({rows, dim()}, users_.options()));
      for (int64_t begin = 0; begin < size_; begin += kColumns) add_tile(first, rows, begin, store, seen, sums);
      for (int64_t r = 0; r < rows; ++r) loss[first + r] = finish(seen[r], saved, first + r);
      finish_slope(seen, sums, slope.narrow(0, first, rows));
    });
  }

  void backward(const T* grad, const Saved<const T>& saved, const at::Tensor& out) const {
    for_tiles(kColumns, [&](int64_t begin, int64_t count, std::vector<at::Tensor>& store) {
      for (int64_t first = 0; first < size_; first += kUsers) {
        const int64_t rows = std::min(kUsers, size_ - first);
        const auto blocks = scores(first, rows, begin, count, store);
        T* pointers[kKlModalities];
        for (int64_t m = 0; m < modalities(); ++m) pointers[m] = blocks[1 + m].template mutable_data_ptr<T>();
        slopes(blocks[0].template mutable_data_ptr<T>(), pointers, rows, count, saved, first, grad);
        for (int64_t m = 0; m < modalities(); ++m) {
          at::Tensor sum = out[m].narrow(0, begin, count);
          at::addmm_out(sum, sum, blocks[1 + m].t(), users_.narrow(0, first, rows), first > 0 ? 1 : 0);
        }
      }
    });
  }

 private:
  int64_t modalities() const { return static_cast<int64_t>(content_.size()); }
  int64_t dim() const { return users_.size(1); }

  template <typename Body>
  void for_tiles(int64_t tile, const Body& body) const {
    Pieces pieces((size_ + tile - 1) / tile);
    for_workers([&] {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      std::vector<at::Tensor> store;
      for (int64_t m = 0; m <= modalities(); ++m) store.push_back(at::empty({kUsers * kColumns}, users_.options()));
      for (int64_t piece; pieces.take(piece);) body(piece * tile, std::min(tile, size_ - piece * tile), store);
    });
  }

  // The scores of some users by the items of some columns: of the IDs, then of each modality.
  std::vector<at::Tensor> scores(int64_t first, int64_t rows, int64_t begin, int64_t count,
                                 std::vector<at::Tensor>& store) const {
    std::vector<at::Tensor> blocks;
    for (int64_t m = 0; m <= modalities(); ++m) {
      const at::Tensor& table = m == 0 ? items_ : content_[m - 1];
      blocks.push_back(store[m].narrow(0, 0, rows * count).view({rows, count}));
      at::mm_out(blocks.back(), users_.narrow(0, first, rows), table.narrow(0, begin, count).t());
    }
    return blocks;
  }

  void add_tile(int64_t first, int64_t rows, int64_t begin, std::vector<at::Tensor>& store, std::vector<User<T>>& seen,
                std::vector<at::Tensor>& sums) const {
    const int64_t count = std::min(kColumns, size_ - begin);
    const auto blocks = scores(first, rows, begin, count, store);
    T* pointers[kKlModalities];
    for (int64_t m = 0; m < modalities(); ++m) pointers[m] = blocks[1 + m].template mutable_data_ptr<T>();
    T rescale[(1 + kKlModalities) * kUsers];
    weigh(blocks[0].template mutable_data_ptr<T>(), pointers, modalities(), rows, count, seen.data(), rescale);
    for (int64_t m = 0; m < modalities(); ++m) {
      const at::Tensor tile = content_[m].narrow(0, begin, count);
      add(sums[2 * m], rescale, blocks[0], tile, begin > 0);
      add(sums[2 * m + 1], rescale + (1 + m) * kUsers, blocks[1 + m], tile, begin > 0);
    }
  }

  void add(at::Tensor& sum, const T* rescale, const at::Tensor& weights, const at::Tensor& tile, bool old) const {
    T* numbers = sum.mutable_data_ptr<T>();
    for (int64_t r = 0; old && r < sum.size(0); ++r) {
      for (int64_t d = 0; d < dim(); ++d) numbers[r * dim() + d] *= rescale[r];
    }
    at::addmm_out(sum, sum, weights, tile, old ? 1 : 0);
  }

  T finish(const User<T>& user, const Saved<T>& saved, int64_t u) const {
    const double log_ids = std::log(user.ids.sum);
    double loss = 0;
    saved.top(0, u) = user.ids.highest;
    saved.sum(0, u) = static_cast<T>(user.ids.sum);
    for (int64_t m = 0; m < modalities(); ++m) {
      saved.top(1 + m, u) = user.content[m].highest;
      saved.sum(1 + m, u) = static_cast<T>(user.content[m].sum);
      const double divergence = user.gap[m] / user.ids.sum - log_ids + std::log(user.content[m].sum);
      loss += divergence < 0 ? 0 : divergence;  // rounding; NaN stays
    }
    return static_cast<T>(loss);
  }

  void finish_slope(const std::vector<User<T>>& seen, const std::vector<at::Tensor>& sums,
                    const at::Tensor& out) const {
    T* slope = out.mutable_data_ptr<T>();
    std::fill_n(slope, out.numel(), T(0));
    for (size_t r = 0; r < seen.size(); ++r, slope += dim()) {
      for (int64_t m = 0; m < modalities(); ++m) {
        const T ids = static_cast<T>(1 / seen[r].ids.sum), content = static_cast<T>(1 / seen[r].content[m].sum);
        const T* by_ids = sums[2 * m].template const_data_ptr<T>() + r * dim();
        const T* by_content = sums[2 * m + 1].template const_data_ptr<T>() + r * dim();
        for (int64_t d = 0; d < dim(); ++d) slope[d] += (by_content[d] * content - by_ids[d] * ids) / temperature_;
      }
    }
  }

  const T temperature_;
  const at::Tensor users_, items_;  // users divided by the temperature
  const std::vector<at::Tensor> content_;
  const int64_t size_;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> transfer_kl(const at::Tensor& users, const at::Tensor& items,
                                                           const at::Tensor& content, double temperature) {
  check_transfer_kl(users, items, content, temperature, "transfer_kl");
  at::Tensor loss = at::empty({users.size(0)}, users.options()), slope = at::empty(users.sizes(), users.options());
  at::Tensor softmax = at::empty({2, 1 + content.size(0), users.size(0)}, users.options());
  const auto run = [&]<typename T>(T) {
    TransferKl<T>(users.contiguous(), items.contiguous(), content.contiguous(), temperature)
        .forward(loss.mutable_data_ptr<T>(), Saved<T>{softmax.mutable_data_ptr<T>(), users.size(0), softmax.size(1)},
                 slope);
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return {loss, softmax, slope};
}

at::Tensor transfer_kl_backward(const at::Tensor& grad, const at::Tensor& softmax, const at::Tensor& users,
                                const at::Tensor& items, const at::Tensor& content, double temperature) {
  const char* op = "transfer_kl_backward";
  check_transfer_kl(users, items, content, temperature, op);
  check_softmax(grad, softmax, users, 3, op);
  check_size(softmax, 1, 1 + content.size(0), op, "softmax");
  const at::Tensor slope = grad.contiguous(), total = softmax.contiguous();
  at::Tensor out = at::empty(content.sizes(), content.options());
  const auto run = [&]<typename T>(T) {
    TransferKl<T>(users.contiguous(), items.contiguous(), content.contiguous(), temperature)
        .backward(slope.const_data_ptr<T>(), Saved<const T>{total.const_data_ptr<T>(), users.size(0), total.size(1)},
                  out);
  };
  users.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("transfer_kl", &transfer_kl);
  m.impl("transfer_kl_backward", &transfer_kl_backward);
}

}  // namespace mmfast
