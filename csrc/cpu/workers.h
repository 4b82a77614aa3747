// Runs a body once per thread; the body takes fixed-size pieces of work from a shared counter.
#pragma once
#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace mmfast {

// Pieces are handed out in order, to whoever asks. A result may depend on the piece, never on its worker.
class Pieces {
 public:
  explicit Pieces(int64_t count) : count_(count) {}
  bool take(int64_t& piece) { return (piece = next_.fetch_add(1, std::memory_order_relaxed)) < count_; }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_;
};

// The region is opened for one piece too: inside it BLAS stays on the calling thread, so a product has the same bits
// whatever the number of threads. An exception of the body is thrown again once all threads are back.
template <typename Body>
void for_workers(const Body& body) {
  std::exception_ptr error;
#pragma omp parallel num_threads(at::get_num_threads())
  {
    try {
      body();
    } catch (...) {
#pragma omp critical(mmfast_for_workers)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace mmfast
