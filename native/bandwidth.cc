// How fast this machine reads memory: the limit that decoding is measured against.
#include "bandwidth.h"

#include <chrono>
#include <cstdint>
#include <memory>

#include "matrix.h"
#include "threads.h"

namespace tribody {
namespace {

// Larger than the private caches of any core (2 MB of L2 here); about the size of a small model's
// weights, so that a shared last-level cache counts as it counts in decoding.
constexpr int64_t kBytes = 160 << 20;
constexpr int64_t kPiece = 256 << 10;

// Sums in 64 bytes of independent lanes, which any compiler vectorises for its baseline; memory is
// slower than that.
uint64_t read_piece(const uint64_t* words, int64_t count) {
  uint64_t lanes[8] = {};
  for (int64_t i = 0; i < count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += words[i + lane];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}

}  // namespace

double memory_bandwidth(double seconds) {
  using Clock = std::chrono::steady_clock;
  std::unique_ptr<uint8_t, void (*)(void*)> memory(allocate_weights(kBytes), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  auto* words = reinterpret_cast<uint64_t*>(memory.get());
  const int64_t per_piece = kPiece / 8;
  parallel_for(kBytes / kPiece, [&](int64_t piece) {
    for (int64_t i = 0; i < per_piece; ++i) words[piece * per_piece + i] = static_cast<uint64_t>(i);
  });
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 0;
  volatile uint64_t kept = 0;
  do {
    const auto start = Clock::now();
    parallel_for(kBytes / kPiece, [&](int64_t piece) {
      const uint64_t total = read_piece(words + piece * per_piece, per_piece);
      if (total == 1) kept = total;
    });
    const std::chrono::duration<double> taken = Clock::now() - start;
    const double rate = static_cast<double>(kBytes) / taken.count();
    best = rate > best ? rate : best;
  } while (Clock::now() < end);
  (void)kept;
  return best;
}

}  // namespace tribody
