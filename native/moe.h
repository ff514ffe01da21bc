// The gated MLP and the mixture of experts: both are lists of segments, rows that meet one pair of
// matrices.
#pragma once

#include "linear.h"

namespace tribody {

struct MlpCall {
  float* x;  // (T, H), in place
  int64_t stride;
  int64_t count;
  Norm norm;
  MatrixView gate_up;  // (2 I, H): the gate's rows, then up's
  MatrixView down;     // (H, I)
};

struct MoeCall {
  Rows x;                  // (T, H)
  const int32_t* experts;  // (T, top_k) with `experts_stride`, every id in [0, E)
  int64_t experts_stride;
  const float* weights;  // (T, top_k)
  int64_t weights_stride;
  int64_t top_k;
  MatrixView gate_up, down;                // (E, 2 I, H), (E, H, I)
  const MatrixView *shared_gate_up = nullptr, *shared_down = nullptr;
  float* out;  // (T, H), added to
  int64_t out_stride;
};

}  // namespace tribody

#define TRIBODY_MOE_KERNELS          \
  void norm_mlp(const MlpCall& call); \
  void moe(const MoeCall& call);
TRIBODY_IN_EACH_ISA(TRIBODY_MOE_KERNELS)
