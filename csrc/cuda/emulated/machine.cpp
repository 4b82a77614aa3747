// The emulated device: the threads of a block are fibers of one system thread, and wait for each other where a device's
// threads would. A wait that a device could not end is an exception that tells the place.
#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../runtime.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace mmfast::emulated {
namespace {

constexpr int64_t kStackBytes = 128 << 10;
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxShared = 48 << 10;
constexpr int64_t kGuardBytes = 256;
constexpr unsigned char kPoison = 0xff;  // NaN as a float of any width, -1 as an integer
constexpr unsigned char kGuard = 0xa5;

enum class State { kReady, kBlockBarrier, kWarpExchange, kDone };

struct Fiber {
  jmp_buf resume;
  ucontext_t first;  // how it starts; later turns go through `resume`, which costs no system call
  void* stack = nullptr;
  bool started = false;
  State state = State::kDone;
  const char* what = "";
  Where where;
};

struct Warp {
  alignas(16) std::array<std::byte, 16> slots[2][kWarp];  // two sets: a lane may be one exchange ahead of another
  int64_t exchanges[kWarp];
};

class Machine {
 public:
  std::mutex mutex;
  cudaError_t error = cudaSuccess;
  alignas(128) unsigned char shared[kMaxShared + kGuardBytes];

  void run(int64_t blocks, int64_t threads, int64_t shared_bytes, const std::function<void()>& body);
  void wait(State state, const char* what, Where where);
  void exchange(const void* x, void* all, size_t bytes, const char* what, Where where);
  [[noreturn]] void trap();

 private:
  void run_block();
  void run_warp(int64_t warp);
  void resume(int64_t thread);
  void start(Fiber& fiber);
  void poison();
  void check_guard() const;
  void release(int64_t begin, int64_t end);
  [[noreturn]] void fail(int64_t thread, int64_t other);
  void abandon();
  std::string describe(int64_t thread) const;
  static void enter();

  std::vector<Fiber> fibers_{static_cast<size_t>(kMaxThreads)};
  std::vector<Warp> warps_{static_cast<size_t>(kMaxThreads / kWarp)};
  const std::function<void()>* body_ = nullptr;
  jmp_buf scheduler_;
  int64_t threads_ = 0, shared_bytes_ = 0, current_ = 0, launches_ = 0;
  bool backwards_ = false, trapped_ = false;
};

Machine& machine() {
  static Machine one;
  return one;
}

// The memory behind __shared__: this library's thread-local block.
struct Region {
  void* begin = nullptr;
  size_t bytes = 0;
};

Region static_shared() {
  static thread_local char anchor;
  struct Search {
    const char* inside;
    Region found;
  } search{&anchor, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        Search& s = *static_cast<Search*>(data);
        const char* begin = static_cast<const char*>(info->dlpi_tls_data);
        for (int i = 0; begin && i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & p = info->dlpi_phdr[i];
          if (p.p_type != PT_TLS || s.inside < begin || s.inside >= begin + p.p_memsz) continue;
          s.found = {info->dlpi_tls_data, p.p_memsz};
          return 1;
        }
        return 0;
      },
      &search);
  return search.found;
}

// Orders differ between launches, so that a missing barrier does not hide behind a lucky one.
int64_t turn(int64_t i, int64_t count, bool backwards) { return backwards ? count - 1 - i : i; }

void Machine::run(int64_t blocks, int64_t threads, int64_t shared_bytes, const std::function<void()>& body) {
  body_ = &body;
  threads_ = threads;
  shared_bytes_ = shared_bytes;
  backwards_ = ++launches_ % 2 == 0;
  trapped_ = false;
  blockDim = {static_cast<unsigned>(threads)};
  gridDim = {static_cast<unsigned>(blocks)};
  for (int64_t b = 0; b < blocks && !trapped_; ++b) {
    blockIdx = {static_cast<unsigned>(turn(b, blocks, backwards_)), 0, 0};
    poison();
    run_block();
    check_guard();
  }
  if (trapped_) error = cudaErrorLaunchFailure;
}

void Machine::poison() {
  const Region region = static_shared();
  if (region.begin) memset(region.begin, kPoison, region.bytes);
  memset(shared, kPoison, shared_bytes_);
  memset(shared + shared_bytes_, kGuard, kGuardBytes);
}

void Machine::check_guard() const {
  const unsigned char* guard = shared + shared_bytes_;
  if (std::all_of(guard, guard + kGuardBytes, [](unsigned char c) { return c == kGuard; })) return;
  throw std::runtime_error("emulated device: a kernel wrote past its " + std::to_string(shared_bytes_) +
                           " bytes of dynamic shared memory; launch it with more or mend its index");
}

void Machine::run_block() {
  for (int64_t t = 0; t < threads_; ++t) fibers_[t].state = State::kReady;
  const int64_t num_warps = (threads_ + kWarp - 1) / kWarp;
  for (int64_t w = 0; w < num_warps; ++w) std::fill_n(warps_[w].exchanges, kWarp, 0);
  while (true) {
    for (int64_t w = 0; w < num_warps && !trapped_; ++w) run_warp(turn(w, num_warps, backwards_));
    if (trapped_) return;
    const Fiber& first = fibers_[0];
    for (int64_t t = 1; t < threads_; ++t) {
      const Fiber& other = fibers_[t];
      if (other.state != first.state)
        fail(first.state == State::kBlockBarrier ? 0 : t, first.state == State::kBlockBarrier ? t : 0);
      if (first.state == State::kBlockBarrier && other.where.line() != first.where.line()) fail(0, t);
    }
    if (first.state == State::kDone) return;
    release(0, threads_);
  }
}

// Runs the lanes of a warp until all of them are done or wait for the block.
void Machine::run_warp(int64_t warp) {
  const int64_t begin = warp * kWarp, end = std::min(begin + kWarp, threads_);
  while (true) {
    for (int64_t i = begin; i < end && !trapped_; ++i) {
      const int64_t t = begin + turn(i - begin, end - begin, backwards_);
      if (fibers_[t].state == State::kReady) resume(t);
    }
    if (trapped_) return;
    int64_t waiting = -1, elsewhere = -1;
    for (int64_t t = begin; t < end; ++t) (fibers_[t].state == State::kWarpExchange ? waiting : elsewhere) = t;
    if (waiting < 0) return;
    if (elsewhere >= 0) fail(waiting, elsewhere);
    if (end - begin < kWarp) fail(waiting, -1);
    for (int64_t t = begin; t < end; ++t) {
      if (fibers_[t].where.line() != fibers_[begin].where.line() || fibers_[t].what != fibers_[begin].what)
        fail(begin, t);
    }
    release(begin, end);
  }
}

void Machine::release(int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) fibers_[t].state = State::kReady;
}

void Machine::start(Fiber& fiber) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (!fiber.stack) {
    fiber.stack =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber.stack == MAP_FAILED || mprotect(fiber.stack, page, PROT_NONE) != 0) {
      throw std::runtime_error("emulated device: no memory for the stacks of a block's threads");
    }
  }
  getcontext(&fiber.first);
  fiber.first.uc_stack.ss_sp = fiber.stack;
  fiber.first.uc_stack.ss_size = kStackBytes;
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, &Machine::enter, 0);
  fiber.started = true;
}

void Machine::resume(int64_t thread) {
  current_ = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  Fiber& fiber = fibers_[thread];
  if (_setjmp(scheduler_) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  start(fiber);
  setcontext(&fiber.first);
}

// A fiber serves one thread after another, for ever.
void Machine::enter() {
  while (true) {
    Machine& self = machine();
    (*self.body_)();
    self.wait(State::kDone, "", Where());
  }
}

void Machine::wait(State state, const char* what, Where where) {
  Fiber& fiber = fibers_[current_];
  fiber.state = state;
  fiber.what = what;
  fiber.where = where;
  if (_setjmp(fiber.resume) == 0) _longjmp(scheduler_, 1);
}

void Machine::exchange(const void* x, void* all, size_t bytes, const char* what, Where where) {
  const int64_t lane = current_ % kWarp;
  Warp& warp = warps_[current_ / kWarp];
  auto& slots = warp.slots[warp.exchanges[lane]++ % 2];
  memcpy(slots[lane].data(), x, bytes);
  wait(State::kWarpExchange, what, where);
  for (int other = 0; other < kWarp; ++other) {
    memcpy(static_cast<std::byte*>(all) + other * bytes, slots[other].data(), bytes);
  }
}

// Every fiber is left where it stands, and starts afresh at the next launch.
void Machine::abandon() {
  for (Fiber& fiber : fibers_) fiber.started = false;
}

void Machine::trap() {
  trapped_ = true;
  abandon();
  _longjmp(scheduler_, 1);
}

std::string Machine::describe(int64_t thread) const {
  const Fiber& fiber = fibers_[thread];
  std::ostringstream text;
  text << "thread " << thread << " of block " << blockIdx.x;
  if (fiber.state == State::kDone) return text.str() + " has finished";
  text << " waits at " << fiber.what << " (" << fiber.where.file_name() << ":" << fiber.where.line() << ")";
  return text.str();
}

void Machine::fail(int64_t thread, int64_t other) {
  const std::string rest = other < 0 ? "its warp has fewer than 32 threads" : describe(other);
  const char* need =
      fibers_[thread].state == State::kBlockBarrier ? "all threads of a block" : "all 32 lanes of a warp";
  abandon();
  throw std::runtime_error("emulated device: " + describe(thread) + " while " + rest + "; " + need +
                           " must meet there, or a device hangs");
}

}  // namespace

void launch(int64_t blocks, int64_t threads, int64_t shared_bytes, const std::function<void()>& body) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  if (blocks < 1 || blocks > INT32_MAX || threads < 1 || threads > kMaxThreads || shared_bytes < 0 ||
      shared_bytes > kMaxShared) {
    m.error = cudaErrorInvalidConfiguration;
    return;
  }
  m.run(blocks, threads, shared_bytes, body);
}

void* dynamic_shared() { return machine().shared; }
void wait_for_block(Where where) { machine().wait(State::kBlockBarrier, "__syncthreads", where); }

int exchange(const void* x, void* all, size_t bytes, const char* what, Where where) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  machine().exchange(x, all, bytes, what, where);
  return lane;
}

void stop() { machine().trap(); }

}  // namespace mmfast::emulated

cudaError_t cudaGetLastError() { return std::exchange(mmfast::emulated::machine().error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "invalid argument";
  }
}
