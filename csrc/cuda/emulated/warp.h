// The exchanges of ../warp.h among fibers.
#pragma once
#include "emulated.h"

namespace mmfast {

template <typename T>
T warp_xor(T x, int mask, emulated::Where where = emulated::Where::current()) {
  T all[32];
  const int lane = emulated::exchange(x, all, "warp_xor", where);
  return all[lane ^ mask];
}

template <typename T>
T warp_broadcast(T x, int lane, emulated::Where where = emulated::Where::current()) {
  T all[32];
  emulated::exchange(x, all, "warp_broadcast", where);
  return all[lane & 31];
}

inline uint32_t warp_ballot(bool predicate, emulated::Where where = emulated::Where::current()) {
  bool all[32];
  emulated::exchange(predicate, all, "warp_ballot", where);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(all[lane]) << lane;
  return bits;
}

// The butterfly of the device, done at once: the same additions in the same order.
template <typename T, typename Combine>
T warp_reduce(T x, const Combine& combine, const char* what, emulated::Where where) {
  T all[32], next[32];
  const int self = emulated::exchange(x, all, what, where);
  for (int mask = 16; mask > 0; mask /= 2) {
    for (int lane = 0; lane < 32; ++lane) next[lane] = combine(all[lane], all[lane ^ mask]);
    std::copy(next, next + 32, all);
  }
  return all[self];
}

template <typename T>
T warp_sum(T x, emulated::Where where = emulated::Where::current()) {
  return warp_reduce(x, [](T a, T b) { return static_cast<T>(a + b); }, "warp_sum", where);
}

template <typename T>
T warp_max(T x, emulated::Where where = emulated::Where::current()) {
  return warp_reduce(x, [](T a, T b) { return a < b ? b : a; }, "warp_max", where);
}

}  // namespace mmfast
