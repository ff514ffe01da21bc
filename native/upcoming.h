// What the threads of the pool read next, and fetching it while they wait.
//
// Between two products threads wait for each other, for a norm or for attention, and memory rests: a
// fifth of a step of 135M parameters on two cores.
#pragma once

#include <atomic>
#include <cstdint>

#include "threads.h"

namespace tribody {

// Where share i of `count` chunks among `threads` ends; the remainder goes to the first shares.
inline int64_t end_of_share(int64_t count, int threads, int i) {
  const int64_t each = count / threads, rest = count % threads;
  return each * (i + 1) + (i < rest ? i + 1 : rest);
}

// What the threads read after the present region: written by the owner, looked at by all.  A reader
// that meets it half written fetches what nobody needs.
struct Upcoming {
  std::atomic<const uint8_t*> data{nullptr}, second{nullptr};
  std::atomic<int64_t> chunk_bytes{0}, num_chunks{0};
  std::atomic<uint32_t> version{0};

  void set(const Reading& reading) {
    data.store(reading.data, std::memory_order_relaxed);
    second.store(reading.second, std::memory_order_relaxed);
    chunk_bytes.store(reading.chunk_bytes, std::memory_order_relaxed);
    num_chunks.store(reading.num_chunks, std::memory_order_relaxed);
    version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
};

// One thread's way through its share of what is upcoming, chunk by chunk.
class Fetcher {
 public:
  // Fetches a few cache lines; false when there is nothing left to fetch.
  bool some(const Upcoming& upcoming, int self, int threads) {
    update(upcoming, self, threads);
    for (int i = 0; i < kLinesAtOnce && left_ > 0; ++i) {
      __builtin_prefetch(at_, 0, 2);
      at_ += kLine;
      left_ -= kLine;
      of_piece_ -= kLine;
      if (of_piece_ <= 0) next_piece();
    }
    return left_ > 0;
  }

  // Leaves the next bytes to the caller; null if they are not all of one chunk.
  const uint8_t* skip(const Upcoming& upcoming, int self, int threads, int64_t bytes) {
    update(upcoming, self, threads);
    if (bytes > of_piece_ || bytes > left_) return nullptr;
    const uint8_t* place = at_;
    at_ += bytes;
    left_ -= bytes;
    of_piece_ -= bytes;
    if (of_piece_ <= 0) next_piece();
    return place;
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kLinesAtOnce = 8;
  // Of a thread's share: about what is read while the others wait for a norm or for attention.
  static constexpr int64_t kMost = 256 << 10;

  void update(const Upcoming& upcoming, int self, int threads) {
    const uint32_t version = upcoming.version.load(std::memory_order_acquire);
    if (version == version_) return;
    version_ = version;
    const int64_t count = upcoming.num_chunks.load(std::memory_order_relaxed);
    const int64_t first = self == 0 ? 0 : end_of_share(count, threads, self - 1);
    piece_ = upcoming.chunk_bytes.load(std::memory_order_relaxed);
    at_ = upcoming.data.load(std::memory_order_relaxed) + first * piece_;
    const uint8_t* second = upcoming.second.load(std::memory_order_relaxed);
    other_ = second == nullptr ? nullptr : second + first * piece_;
    of_piece_ = piece_;
    left_ = (end_of_share(count, threads, self) - first) * piece_ * (second == nullptr ? 1 : 2);
    if (left_ > kMost) left_ = kMost;
  }

  // From a chunk's first memory to its second, and from there to the next chunk's first.
  void next_piece() {
    if (other_ != nullptr) {
      const uint8_t* rest = at_ + of_piece_;
      at_ = other_;
      other_ = rest;
    }
    of_piece_ = piece_;
  }

  uint32_t version_ = 0;
  const uint8_t *at_ = nullptr, *other_ = nullptr;
  int64_t piece_ = 0, of_piece_ = 0, left_ = 0;
};

// What followed each reading the last time.  Two readings that meet at one place forget each other.
class Successors {
 public:
  // Notes that `reading` came after the one before, and returns what came after it, or null.
  const Reading* after(const Reading& reading) {
    entries_[last_].next = reading;
    const auto key = reinterpret_cast<uintptr_t>(reading.data);
    last_ = (key >> 6) * 0x9e3779b97f4a7c15u >> (64 - kBits);
    Entry& own = entries_[last_];
    if (own.key == key) return &own.next;
    own = {key, {}};
    return nullptr;
  }

 private:
  static constexpr int kBits = 11;  // for a few hundred matrices that are read as a whole
  struct Entry {
    uintptr_t key;
    Reading next;
  };
  Entry entries_[1 << kBits] = {};
  uint64_t last_ = 0;
};

}  // namespace tribody
