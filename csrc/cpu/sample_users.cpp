// Draws of distinct users, all equally likely, each with one of its rows or with two items of the whole catalogue.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "../philox.h"
#include "../sample_checks.h"

namespace mmfast {
namespace {

struct Draws {
  int64_t num_users, num_entries, num_draws;
  uint64_t seed, first_draw;
};

Draws checked(const char* op, const at::Tensor& users, int64_t num_entries, int64_t num_draws, int64_t seed,
              int64_t first_draw) {
  check_sample_users(users, num_entries, num_draws, op);
  return {users.numel(), num_entries, num_draws, static_cast<uint64_t>(seed), static_cast<uint64_t>(first_draw)};
}

// The users of one draw: a table of places, hashed, with the draw beside the user, so that no draw has to empty it.
class Taken {
 public:
  explicit Taken(int64_t entries) {
    while (int64_t{1} << bits_ < 2 * entries) ++bits_;
    places_.assign(size_t{1} << bits_, 0);
  }

  // Whether the user is new to the draw, which is counted from 1.
  bool take(uint32_t draw, uint32_t user) {
    const uint64_t mask = places_.size() - 1, wanted = static_cast<uint64_t>(draw) << 32 | user;
    for (uint64_t at = user * 0x9E3779B97F4A7C15u >> (64 - bits_);; at = (at + 1) & mask) {
      if (places_[at] == wanted) return false;
      if (places_[at] >> 32 == draw) continue;
      places_[at] = wanted;
      return true;
    }
  }

 private:
  int bits_ = 1;
  std::vector<uint64_t> places_;
};

// One entry of a draw: the place of its user, and the words of the attempt.
struct Entry {
  uint32_t place;
  Philox4 words;
};

// Calls put(number of the entry, entry) for every entry of every draw. Independent uniform attempts of which each
// user's first counts are uniform draws without replacement; a draw larger than the users takes every attempt.
template <typename Put>
void draw_users(const Draws& d, const Put& put) {
  const bool distinct = d.num_entries <= d.num_users;
#pragma omp parallel num_threads(at::get_num_threads()) if (d.num_draws > 1)
  {
    Taken taken(distinct ? d.num_entries : 0);
    std::vector<Entry> entries(d.num_entries);
#pragma omp for schedule(static)
    for (int64_t s = 0; s < d.num_draws; ++s) {
      uint64_t attempt = 0;
      for (int64_t b = 0; b < d.num_entries; ++attempt) {
        const Philox4 words = philox(d.seed, attempt, d.first_draw + static_cast<uint64_t>(s));
        const uint32_t place = below(words.word[0], static_cast<uint32_t>(d.num_users));
        if (distinct && !taken.take(static_cast<uint32_t>(s) + 1, place)) continue;
        entries[b++] = {place, words};
      }
      // Apart from the attempts, so that many users are waited for at once.
      for (int64_t b = 0; b < d.num_entries; ++b) put(s * d.num_entries + b, entries[b]);
    }
  }
}

at::Tensor sample_user_rows(const at::Tensor& user_ptr, const at::Tensor& users, int64_t num_entries, int64_t num_draws,
                            int64_t seed, int64_t first_draw) {
  const char* op = "sample_user_rows";
  const Draws draws = checked(op, users, num_entries, num_draws, seed, first_draw);
  check_dim(user_ptr, 1, op, "user_ptr");
  check_dtype(user_ptr, at::kLong, op, "user_ptr");
  const at::Tensor ptr = user_ptr.contiguous(), ids = users.contiguous();
  check_ids(ids, ptr.numel() - 1, op, "users");
  const int64_t* first = ptr.const_data_ptr<int64_t>();
  const int64_t* user = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < draws.num_users; ++i) {
    const int64_t count = first[user[i] + 1] - first[user[i]];
    TORCH_CHECK(count > 0 && count < std::numeric_limits<uint32_t>::max(), op, ": user ", user[i], " has ", count,
                " rows; wanted 1 to 2^32 - 2; leave users without rows out of users");
  }
  at::Tensor out = at::empty({num_draws * num_entries}, users.options());
  int64_t* rows = out.mutable_data_ptr<int64_t>();
  draw_users(draws, [&](int64_t number, const Entry& entry) {
    const int64_t u = user[entry.place];
    rows[number] = first[u] + below(entry.words.word[1], static_cast<uint32_t>(first[u + 1] - first[u]));
  });
  return out;
}

at::Tensor sample_triples(const at::Tensor& users, int64_t num_items, int64_t num_entries, int64_t num_draws,
                          int64_t seed, int64_t first_draw) {
  const char* op = "sample_triples";
  const Draws draws = checked(op, users, num_entries, num_draws, seed, first_draw);
  TORCH_CHECK(num_items > 0 && num_items < std::numeric_limits<uint32_t>::max(), op, ": num_items=", num_items,
              "; wanted 1 to 2^32 - 2");
  const at::Tensor ids = users.contiguous();
  const int64_t* user = ids.const_data_ptr<int64_t>();
  const int64_t size = num_draws * num_entries;
  at::Tensor out = at::empty({3, size}, users.options());
  int64_t* triples = out.mutable_data_ptr<int64_t>();
  draw_users(draws, [&](int64_t number, const Entry& entry) {
    triples[number] = user[entry.place];
    for (int side = 1; side < 3; ++side) {
      triples[side * size + number] = below(entry.words.word[side], static_cast<uint32_t>(num_items));
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmfast, CPU, m) {
  m.impl("sample_user_rows", &sample_user_rows);
  m.impl("sample_triples", &sample_triples);
}

}  // namespace mmfast
