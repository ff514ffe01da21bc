// The worker pool, and scratch memory that outlives a call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tribody {

// Threads that share a parallel_for, the caller included.  At least 1.
int num_threads();
void set_num_threads(int count);

// Runs task(context, chunk) for every chunk in [0, num_chunks), on the caller and the workers.
// Every thread begins with a run of neighbouring chunks, its share, and then takes over what is left
// of the others', so a slow or sleeping worker costs little; results must not depend on who runs a
// chunk.  Calls from inside a chunk, or while another thread uses the pool, run all chunks on the
// caller.
using ChunkTask = void (*)(void* context, int64_t chunk);
void parallel_run(int64_t num_chunks, ChunkTask task, void* context);

template <typename Body>
inline void parallel_for(int64_t num_chunks, Body&& body) {
  if (num_chunks == 1) {
    body(static_cast<int64_t>(0));
    return;
  }
  auto* target = &body;
  using Pointer = decltype(target);
  parallel_run(
      num_chunks, [](void* context, int64_t chunk) { (*static_cast<Pointer>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(target)));
}

// Memory that a region reads: `chunk_bytes` for each chunk from `data` on, and as many from `second`
// on unless it is null.
struct Reading {
  const uint8_t* data;
  const uint8_t* second;
  int64_t chunk_bytes, num_chunks;
};

// Says what the next call of parallel_run reads.  Steps resemble each other: what followed this
// reading the last time is expected to follow it again, and threads that wait, for others or for the
// next region, fetch the beginning of their share of it into their caches.
void begin_reading(const Reading& reading);

// For the last chunk of this thread's share: where the thread goes on reading after the region, as far
// as that is known; the next `bytes` from there on are then the caller's to fetch.  Null in any other
// chunk, and when it is not known.
const uint8_t* reading_after_share(int64_t bytes);

// Grow-only memory of the calling thread, one piece per slot, aligned to 64 bytes; its content is
// undefined and it is valid until the same thread asks for the same slot again.  Never freed
// before the thread ends, so steps of a usual size allocate nothing.
enum class Scratch : int {
  normalized,     // rms_norm of the input rows
  codes,          // A8 codes of the first matrix's input
  scales,         // and their scales
  wide,           // a chunk of gate_up's output
  mid_values,     // silu(gate) * up of all segments, when down takes floats
  mid_codes,      // the same as A8
  mid_scales,
  mid_wide,       // all of gate_up's output, for odd sizes
  expert_rows,    // moe: outputs per (token, choice)
  expert_lists,   // moe: rows sorted by expert
  expert_codes,   // moe: A8 gathered by expert
  expert_scales,
  segments,       // moe: its list
  unpacked,       // linear_int.cc: a panel's bytes and scales
  attention_a,    // attention.cc, mla.cc
  attention_b,
  attention_c,
  attention_d,
  partial,        // linear_amx.h: results of the first groups
  layer_first,    // layers.cc: the output of the first product of a layer
  layer_q,
  layer_mixed,    // attention's output
  layer_rows,     // row_starts of a batch's parts
  layer_hidden,   // the experts' input
  layer_scores,
  layer_shares,
  layer_chosen,
  attention_units,  // plan.inc
  attention_chunks,
  attention_partials,
  draft_joined,  // draft.cc
  draft_x,
  draft_logits,
  draft_numbers,
  draft_slots,
  draft_angles,
  count,
};
void* scratch_bytes(Scratch slot, size_t bytes);

template <typename T>
inline T* scratch(Scratch slot, int64_t count) {
  return static_cast<T*>(scratch_bytes(slot, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace tribody
