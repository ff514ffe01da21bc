// The worker pool, and scratch memory that outlives a call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tribody {

// Threads that share a parallel_for, the caller included.  At least 1.
int num_threads();
void set_num_threads(int count);

// Runs task(context, chunk) for every chunk in [0, num_chunks), on the caller and the workers.
// Chunks are handed out one by one in rising order, so a slow or sleeping worker costs little, and
// results must not depend on who runs a chunk.  Calls from inside a chunk, or while another thread
// uses the pool, run all chunks on the caller.
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
