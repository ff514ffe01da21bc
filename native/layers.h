// Whole decoder layers in one call: what bindings_layers.cc fills in, once a model and once a step.
// A layer is the kernels of its parts in the order of ops/composed.py, to the bit.
#pragma once

#include "attention.h"
#include "moe.h"
#include "norm.h"
#include "sampling.h"

namespace tribody {

// What the layers of a step share.
struct LayerStep {
  int64_t first_layer, end_layer;
  Array2<float> x;  // (T, H), in place
  int64_t rows;
  Array2<const float> cos, sin;  // (T, D / 2)
  const int64_t* slots;          // (T,)
  Batch batch;
  int64_t num_generated;  // sequences, the first of the batch, whose tokens the model generated
};

// One array of pages (L, P, …) of the model's L layers.
struct LayerPages {
  uint8_t* data;
  int64_t bytes_per_layer;
  bool half;

  void* of(int64_t layer) const { return data + layer * bytes_per_layer; }
};

struct GroupedQueryLayer {
  const float* input_norm;
  MatrixView qkv;
  const float* qkv_bias;          // or null
  const float *q_norm, *k_norm;  // or both null
  MatrixView o;
  const float* o_bias;  // or null
  const float* post_norm;
  MatrixView gate_up, down;
};

struct GroupedQueryCall {
  const GroupedQueryLayer* layers;  // all of the model's
  int64_t num_heads, num_kv_heads, head_dim;
  float eps, scale;
  LayerStep step;
  LayerPages keys, values;  // (L, P, Hkv, D, 64), (L, P, Hkv, 64, D)
};

// A mixture of experts behind its router; an MLP where `gate.data` is null: then gate_up and down
// are plain matrices, and the rest means nothing.
struct LayerExperts {
  MatrixView gate_up, down;
  MatrixView gate;
  const float* bias;  // or null
  bool has_shared;
  MatrixView shared_gate_up, shared_down;
};

struct LatentLayer {
  const float* input_norm;
  MatrixView a;         // [q or q_a; kv_a]
  const float* q_norm;  // of q_a; null where `a` gives q itself
  MatrixView q_b;
  const float* kv_norm;
  MatrixView kv_b, w_uk, w_uv, o;
  const float* post_norm;
  LayerExperts mlp;
};

struct LatentCall {
  const LatentLayer* layers;
  int64_t num_heads, nope, rope, rank, value_dim;
  bool interleaved;
  float eps, scale;
  RouteCall router;  // all but rows, bias and outputs
  LayerStep step;
  LayerPages pages;  // (L, P, 64, R + Dr)
};

}  // namespace tribody

#define TRIBODY_LAYER_KERNELS                                \
  void grouped_query_layers(const GroupedQueryCall& call);   \
  void latent_layers(const LatentCall& call);
TRIBODY_IN_EACH_ISA(TRIBODY_LAYER_KERNELS)
