// Adam on the rows that a batch touched; a warp per row fits the rules of what the row missed and applies them.
#include <cmath>
#include <cstdio>

#include "../replay.h"
#include "adam_lazy.h"

namespace mmfast {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kThreads = kWarps * kWarp;

__device__ int64_t first_entry() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; }
__device__ int64_t entry_step() { return int64_t{gridDim.x} * kWarps; }

constexpr int64_t kMostPowers = 1 << 17;  // 4 MB of tables; betas so near 1 that they need more are rare

// Powers by step, looked up where j < length and else computed.
struct Powers {
  double* table;  // [4, length]
  int64_t length, settled;
  double beta1, beta2;

  MMFAST_HOST_DEVICE double decay1(int64_t j) const { return j < length ? table[j] : power(beta1, j); }
  MMFAST_HOST_DEVICE double root2(int64_t j) const { return j < length ? table[length + j] : power(beta2, 0.5 * j); }
  MMFAST_HOST_DEVICE double bias1(int64_t j) const {
    if (j >= settled) return 1;
    return j < length ? table[2 * length + j] : 1 / (1 - power(beta1, j));
  }
  MMFAST_HOST_DEVICE double bias2(int64_t j) const {
    if (j >= settled) return 1;
    return j < length ? table[3 * length + j] : 1 / std::sqrt(1 - power(beta2, j));
  }
  MMFAST_HOST_DEVICE static double power(double beta, double steps) { return std::pow(beta, steps); }
};

__global__ void powers_kernel(Powers powers, StepNumber last) {
  const int64_t length = powers.length, read = *last + 1, count = length < read ? length : read;
  const int64_t threads = int64_t{gridDim.x} * kThreads;
  for (int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x; j < count; j += threads) {
    const auto steps = static_cast<double>(j);
    const double decay1 = std::pow(powers.beta1, steps), decay2 = std::pow(powers.beta2, steps);
    powers.table[j] = decay1;
    powers.table[length + j] = std::pow(powers.beta2, steps / 2);
    powers.table[2 * length + j] = 1 / (1 - decay1);
    powers.table[3 * length + j] = 1 / std::sqrt(1 - decay2);
  }
}

// ReplayAtoms of such powers.
struct Atoms {
  Powers powers;
  int64_t t;

  MMFAST_HOST_DEVICE double weight(int64_t j) const { return powers.decay1(j) * powers.bias1(t + j); }
  MMFAST_HOST_DEVICE double place(int64_t j) const { return powers.root2(j) * powers.bias2(t + j); }
};

struct WarpLanes {
  int64_t lane;
  static constexpr int64_t count = kWarp;

  MMFAST_HOST_DEVICE double sum(double x) const {
#if defined(__CUDA_ARCH__) || defined(MMFAST_EMULATED)
    return warp_sum(x);
#else
    return x;
#endif
  }
};

// Applies a rule to a row; its moments are `older` steps older than its parameters.
template <typename T>
struct Replay {
  const AdamSettings& set;
  int64_t older;
  const T* m;
  const T* v;
  T* param;
  int64_t width;
  int64_t lane;

  template <int kPoints>
  MMFAST_HOST_DEVICE void apply(const ReplayRule& rule) const {
    const double decay2 = std::pow(set.beta2, static_cast<double>(older)), root2 = std::sqrt(decay2);
    const T eps = static_cast<T>(set.eps);
    const T weight = static_cast<T>(set.lr * rule.weight * std::pow(set.beta1, static_cast<double>(older)));
    T center[kPoints], spread[kPoints];
    for (int l = 0; l < kPoints; ++l) {
      center[l] = static_cast<T>(rule.center[l] * root2);
      spread[l] = static_cast<T>(rule.spread[l] * decay2);
    }
    for (int64_t i = lane; i < width; i += kWarp) {
      const T s = std::sqrt(v[i]);
      T below = center[kPoints - 1] * s + eps;
      for (int l = kPoints - 2; l >= 0; --l) below = center[l] * s + eps - spread[l + 1] * v[i] / below;
      param[i] -= weight * m[i] / below;
    }
  }

  MMFAST_HOST_DEVICE void operator()(const ReplayRule& rule) const {
    static_assert(kRulePoints == 4, "one case per number of points");
    if (rule.points == 1) return apply<1>(rule);
    if (rule.points == 2) return apply<2>(rule);
    if (rule.points == 3) return apply<3>(rule);
    apply<4>(rule);
  }
};

// The step up to which the parameters of a row were made, now `step`. Of warps with the same row one gets the old step.
__device__ int32_t claim(int32_t* made, int32_t step, int lane) {
  int32_t before = 0;
  if (lane == 0) before = atomicMax(made, step);
  return warp_broadcast(before, 0);
}

__global__ void made_kernel(const int32_t* row_steps, const int64_t* rows, int64_t count, StepNumber last,
                            Label label) {
  const int64_t most = *last, threads = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += threads) {
    const int64_t row = rows ? rows[i] : i, made = row_steps[2 * row];
    if (made <= most) continue;
    printf("%s: row %lld is made up to step %lld; wanted %lld or less for step %lld\n", label.op,
           static_cast<long long>(row), static_cast<long long>(made), static_cast<long long>(most),
           static_cast<long long>(*last.step));
    __trap();
  }
}

template <typename T>
__global__ void catch_up_kernel(LazyTable<T> table, const int64_t* rows, int64_t count, AdamSettings set,
                                StepNumber last, int64_t most_steps, Powers powers) {
  const int lane = threadIdx.x % kWarp;
  const auto step = static_cast<int32_t>(*last);
  for (int64_t i = first_entry(); i < count; i += entry_step()) {
    const int64_t row = rows ? rows[i] : i;
    int32_t* made = table.row_steps + 2 * row;
    const int32_t moments = made[1], since = claim(made, step, lane);
    if (moments == 0) continue;
    T* m = table.exp_avg + row * table.width;
    T* v = table.exp_avg_sq + row * table.width;
    T* param = table.param + row * table.width;
    const int64_t missed = step - since;
    const Replay<T> replay{set, since - moments, m, v, param, table.width, lane};
    for_rules(Atoms{powers, since}, WarpLanes{lane}, missed < most_steps ? missed : most_steps, kRuleError<T>, replay);
    if (rows || moments >= step) continue;
    const T decay1 = static_cast<T>(std::pow(set.beta1, static_cast<double>(step - moments)));
    const T decay2 = static_cast<T>(std::pow(set.beta2, static_cast<double>(step - moments)));
    for (int64_t f = lane; f < table.width; f += kWarp) {
      m[f] *= decay1;
      v[f] *= decay2;
    }
    if (lane == 0) made[1] = step;
  }
}

template <typename T>
__global__ void step_kernel(LazyTable<T> table, const int64_t* rows, int64_t count, const T* grad, AdamSettings set,
                            const int64_t* number) {
  const int lane = threadIdx.x % kWarp;
  const auto step = static_cast<int32_t>(*number);
  const AdamStep<T> common(set, step);
  for (int64_t i = first_entry(); i < count; i += entry_step()) {
    int32_t* made = table.row_steps + 2 * rows[i];
    const auto older = static_cast<double>(step - 1 - made[1]);
    const T decay1 = static_cast<T>(std::pow(set.beta1, older)), decay2 = static_cast<T>(std::pow(set.beta2, older));
    __syncwarp();  // every lane has read the row's step
    for (int64_t f = lane; f < table.width; f += kWarp) {
      const int64_t at = rows[i] * table.width + f;
      T m = decay1 * table.exp_avg[at], v = decay2 * table.exp_avg_sq[at];
      table.param[at] -= common.move(grad[i * table.width + f], m, v);
      table.exp_avg[at] = m;
      table.exp_avg_sq[at] = v;
    }
    if (lane == 0) made[0] = made[1] = step;
  }
}

// The most steps of a row that count.
template <typename T>
int64_t most_steps(const AdamSettings& set) {
  return set.lr == 0 || set.beta1 == 0 ? 0 : steps_that_count(set, kMostSteps, kRuleError<T>);
}

// The step from which on both bias corrections are 1 up to rounding.
int64_t settled_step(const AdamSettings& set) {
  constexpr double kNothing = 40;  // exp(-40) is lost beside 1
  const double beta = std::max(set.beta1, set.beta2);
  return beta > 0
             ? static_cast<int64_t>(std::min(static_cast<double>(kMostSteps), std::ceil(kNothing / -std::log(beta))))
             : 1;
}

}  // namespace

cudaError_t adam_check_made(const int32_t* row_steps, const int64_t* rows, int64_t count, StepNumber last,
                            const Label& label, cudaStream_t stream) {
  MMFAST_LAUNCH(made_kernel, blocks_for(count, kThreads), kThreads, 0, stream, row_steps, rows, count, last, label);
  return cudaGetLastError();
}

template <typename T>
int64_t adam_powers_length(const AdamSettings& set) {
  return std::min(kMostPowers, 2 + std::max(settled_step(set), most_steps<T>(set)));
}

template <typename T>
cudaError_t adam_catch_up(const LazyTable<T>& table, const int64_t* rows, int64_t count, const AdamSettings& set,
                          StepNumber last, double* powers, cudaStream_t stream) {
  const Powers lookup{powers, adam_powers_length<T>(set), settled_step(set), set.beta1, set.beta2};
  MMFAST_LAUNCH(powers_kernel, blocks_for(lookup.length, kThreads), kThreads, 0, stream, lookup, last);
  MMFAST_LAUNCH(catch_up_kernel<T>, blocks_for(count, kWarps), kThreads, 0, stream, table, rows, count, set, last,
                most_steps<T>(set), lookup);
  return cudaGetLastError();
}

template <typename T>
cudaError_t adam_lazy_step(const LazyTable<T>& table, const int64_t* rows, int64_t count, const T* grad,
                           const AdamSettings& set, const int64_t* step, cudaStream_t stream) {
  MMFAST_LAUNCH(step_kernel<T>, blocks_for(count, kWarps), kThreads, 0, stream, table, rows, count, grad, set, step);
  return cudaGetLastError();
}

#define MMFAST_LAZY(T)                                                                                              \
  template int64_t adam_powers_length<T>(const AdamSettings&);                                                      \
  template cudaError_t adam_catch_up(const LazyTable<T>&, const int64_t*, int64_t, const AdamSettings&, StepNumber, \
                                     double*, cudaStream_t);                                                        \
  template cudaError_t adam_lazy_step(const LazyTable<T>&, const int64_t*, int64_t, const T*, const AdamSettings&,  \
                                      const int64_t*, cudaStream_t);
MMFAST_LAZY(float)
MMFAST_LAZY(double)

}  // namespace mmfast
