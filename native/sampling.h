// What follows logits: routing of experts, the best token, the best log-probabilities.
#pragma once

#include "linear.h"

namespace tribody {

struct RouteCall {
  Rows logits;  // (T, E)
  int64_t num_experts;
  const float* bias;  // (E,) or null
  int64_t top_k, num_groups, top_groups;
  bool sigmoid;         // else softmax
  bool group_by_two;    // a group's score is the sum of its two best; else its best
  bool normalize;
  float scale;
  int32_t* experts;  // (T, top_k)
  int64_t experts_stride;
  float* weights;  // (T, top_k)
  int64_t weights_stride;
};

struct TopCall {
  Rows logits;  // (B, V)
  int64_t columns;
  int64_t k;
  int32_t* ids;      // (B, k)
  float* logprobs;   // (B, k)
  float* log_sums;   // (B,)
};

}  // namespace tribody

// exponential: out[i] = e^x[i] by simd.h's exp, for its test.
// argmax: the lowest index of each row's largest value; NaN is never larger than anything.
#define TRIBODY_SAMPLING_KERNELS                                        \
  void route(const RouteCall& call);                                    \
  void argmax(const Rows& logits, int64_t columns, int32_t* out);       \
  void top_logprobs(const TopCall& call);                               \
  void exponential(const float* x, int64_t count, float* out);
TRIBODY_IN_EACH_ISA(TRIBODY_SAMPLING_KERNELS)
