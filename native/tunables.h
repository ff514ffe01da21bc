// Numbers that kernels read at run time, so that `tribody tune` can choose them for a machine and a
// model.  They decide how work is cut and who waits how long, never a result: every output element
// is one chain in a fixed order, whatever these are (tests/ops/test_tunables.py).
//
// A new one is a member here, with the reason for its value, and a line in tunables.cc; the search,
// its check of the results, the cache and `tribody doctor` take it from there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tribody {

struct Tunables {
  // Rows of a chunk when there are many: 128 rows of 1536 codes are 196 KB, which stay in L2 beside
  // the panels that they meet.  A multiple of kTallTile.
  int64_t rows_per_chunk = 128;

  // The least work of a chunk: 16,384 multiply-adds take about 0.5 us, five times the hand-over.
  int64_t smallest_chunk_macs = 16384;

  // Chunks that a thread gets of a product, if they are not too small: a worker that comes late or
  // is interrupted then leaves little to wait for.
  int64_t chunks_per_thread = 8;

  // Rows from which on a panel is unpacked before it is used: a full chunk of a long prompt.
  // Unpacked groups take two to four times the bytes and leave L1 at 1,600 columns, so fewer rows
  // may lose.  Measured on a Xeon (Emerald Rapids, one thread, 512 rows of W; before -> after in
  // GMAC/s): 64 rows of 576 columns w4m32 160 -> 178, w5m32 161 -> 182 (AVX-512), 84 -> 90, 74 -> 87
  // (AVX2); of 4,096 columns w4m32 156 -> 164, w8g32 171 -> 171; 32 rows of 4,096 columns w8g32
  // 175 -> 158.
  int64_t unpack_rows = 64;

  // Grouped-query attention, (row, head) pairs of a tile: converting a float16 page to float32 costs
  // about as much as four pairs' arithmetic on it; 96 pairs of a segment's scores (98 KB) leave most
  // of L2 free.  Measured on a Xeon (Emerald Rapids, 2,048 rows, nine heads on three, one thread):
  // 16 pairs 172 ms, 32 131, 48 123, 72 117, 96 118; 32 heads on eight of 128 columns: 48 172, 96 163.
  int64_t attention_pairs = 96;

  // Latent attention, absorbed: (row, head) pairs of a tile, two AVX-512 registers of scores.
  // Converting a page costs as much as about two pairs' arithmetic on it, and 32 outputs of 512
  // floats (64 KB) stay in L2.
  int64_t latent_pairs = 32;

  // Latent attention, expanded: pages whose keys and values are rebuilt at once.  128 positions are
  // rows enough for the linear kernel; their keys and values (128 KB for 128 + 128 columns) and
  // latents (256 KB) share the L2 cache.
  int64_t rebuilt_pages = 2;

  // Latent attention, expanded: rows that share one rebuilding.  More rows rebuild less often, but
  // their queries and outputs (1,280 bytes a row for 192 + 128 columns) are walked once a page.
  int64_t rebuild_rows = 512;

  // How long a worker spins after its last chunk before it sleeps: longer than the interpreter takes
  // between two kernels of a step (2-10 us measured), short beside a step (5 ms for 135M
  // parameters).
  int64_t spin_us = 50;
};

// Those in force.  Read by every kernel; changed only while none runs.
extern Tunables tunables;

struct Tunable {
  const char* name;
  int64_t Tunables::*member;
  const char* phase;  // what it can speed up: "decode", "prefill" or "both"
  const char* meaning;
  int64_t values[8];  // that the search tries, the default among them, rising
  size_t num_values;
};

extern const Tunable kTunables[];
extern const size_t kNumTunables;

}  // namespace tribody
