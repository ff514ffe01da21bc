// DeepSeek-V3's drafter: all its passes over a step in one call.  What it computes stands in
// ops/composed.py; the bits are those of the single operators.
#pragma once

#include "layers.h"

namespace tribody {

struct DraftCall {
  MatrixView embed_tokens, eh_proj, lm_head;
  const float *enorm, *hnorm, *norm;  // (H,)
  LatentCall layer;                   // the first pass; but for step.x, which the kernel owns
  const int32_t* token_ids;           // (T,)
  Array2<const float> hidden;         // (T, H)
  const int64_t* heads;               // (R,) rising: the rows that guesses are wanted for
  int64_t num_heads, passes;
  Array2<const float> cos, sin;  // (N, D / 2): the angles of positions [0, N)
  int32_t* tokens;               // (passes, R)
  Array2<float> states;          // (R, H)

  int64_t hidden_size() const { return eh_proj.rows; }
};

}  // namespace tribody

#define TRIBODY_DRAFT_KERNELS void draft(const DraftCall& call);
TRIBODY_IN_EACH_ISA(TRIBODY_DRAFT_KERNELS)
