// What follows logits: routing of experts, the best token, the best log-probabilities.
#include "sampling.h"

#include "simd.h"

namespace tribody::TRIBODY_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

TRIBODY_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

float largest_of(const float* x, int64_t count) {
  F32x8 most = F32x8::broadcast(kMinusInfinity);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) most = max(F32x8::load(x + i), most);
  float best = largest(most);
  for (; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// The k largest values of x by falling value, then rising index; entries of equal value keep the
// lower index because a later one must be strictly larger to pass; NaN comes last.  Takes count * k at worst and
// count in the usual case, where few values pass the k-th.
void best_of(const float* x, int64_t count, int64_t k, int32_t* ids, float* values) {
  int64_t held = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (held == k && !(x[i] > values[k - 1]) && values[k - 1] == values[k - 1]) continue;
    int64_t place = held < k ? held++ : k - 1;
    for (; place > 0 && (x[i] > values[place - 1] || values[place - 1] != values[place - 1]);
         --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = x[i];
    ids[place] = static_cast<int32_t>(i);
  }
}

// scores = softmax or sigmoid of the logits.
void score(const RouteCall& call, const float* logits, float* scores) {
  const int64_t count = call.num_experts;
  const float most = call.sigmoid ? 0.0f : largest_of(logits, count);
  const F32x8 one = F32x8::broadcast(1.0f);
  float total = 0;
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t valid = smaller(8, count - i);
    const F32x8 x = load_first(logits + i, valid);
    if (call.sigmoid) {
      store_first(one / (one + exp(F32x8::zero() - x)), scores + i, valid);
    } else {
      store_first(exp(x - F32x8::broadcast(most)), scores + i, valid);
    }
  }
  if (call.sigmoid) return;
  for (int64_t i = 0; i < count; ++i) total += scores[i];
  for (int64_t i = 0; i < count; ++i) scores[i] /= total;
}

// Leaves only the best groups in `choice`; the others become -inf.
void drop_groups(const RouteCall& call, float* choice, int32_t* kept, float* group_scores) {
  const int64_t size = call.num_experts / call.num_groups;
  float* kept_scores = group_scores + call.num_groups;
  for (int64_t g = 0; g < call.num_groups; ++g) {
    int32_t ids[2];
    float best[2] = {0, 0};
    best_of(choice + g * size, size, call.group_by_two && size > 1 ? 2 : 1, ids, best);
    group_scores[g] = best[0] + best[1];
  }
  best_of(group_scores, call.num_groups, call.top_groups, kept, kept_scores);
  for (int64_t g = 0; g < call.num_groups; ++g) {
    bool keep = false;
    for (int64_t i = 0; i < call.top_groups; ++i) keep |= kept[i] == g;
    for (int64_t i = 0; i < size && !keep; ++i) choice[g * size + i] = kMinusInfinity;
  }
}

void route_row(const RouteCall& call, int64_t row, float* memory, int32_t* kept) {
  float *scores = memory, *choice = scores + call.num_experts, *rest = choice + call.num_experts;
  score(call, call.logits.data + row * call.logits.stride, scores);
  for (int64_t i = 0; i < call.num_experts; ++i) {
    choice[i] = call.bias == nullptr ? scores[i] : scores[i] + call.bias[i];
  }
  if (call.num_groups > 1) drop_groups(call, choice, kept, rest);
  int32_t* experts = call.experts + row * call.experts_stride;
  float* weights = call.weights + row * call.weights_stride;
  best_of(choice, call.num_experts, call.top_k, experts, weights);
  float total = 0;
  for (int64_t k = 0; k < call.top_k; ++k) {
    weights[k] = scores[experts[k]];
    total += weights[k];
  }
  const float divisor = call.normalize ? total + 1e-20f : 1.0f;
  for (int64_t k = 0; k < call.top_k; ++k) weights[k] = weights[k] / divisor * call.scale;
}

// log of the sum of e^x, with the largest taken out.
float log_sum_exp(const float* x, int64_t count, float most) {
  const F32x8 shift = F32x8::broadcast(most);
  F32x8 low = F32x8::zero(), high = F32x8::zero();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    low = low + exp(F32x8::load(x + i) - shift);
    high = high + exp(F32x8::load(x + i + 8) - shift);
  }
  float total = sum(low + high);
  for (; i < count; ++i) {
    float lanes[8];
    exp(F32x8::broadcast(x[i] - most)).store(lanes);
    total += lanes[0];
  }
  return most + __builtin_logf(total);
}

}  // namespace

void route(const RouteCall& call) {
  // Scores, choices and group scores; sized by the number of experts, a few KB.
  auto* memory = scratch<float>(Scratch::expert_rows, 3 * call.num_experts + 2 * call.num_groups);
  auto* kept = scratch<int32_t>(Scratch::expert_lists, call.num_groups);
  for (int64_t row = 0; row < call.logits.count; ++row) route_row(call, row, memory, kept);
}

void exponential(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t valid = smaller(8, count - i);
    store_first(exp(load_first(x + i, valid)), out + i, valid);
  }
}

void argmax(const Rows& logits, int64_t columns, int32_t* out) {
  parallel_for(logits.count, [&](int64_t row) {
    const float* x = logits.data + row * logits.stride;
    const float most = largest_of(x, columns);
    int64_t i = 0;
    while (i < columns && x[i] != most) ++i;
    out[row] = static_cast<int32_t>(i < columns ? i : 0);
  });
}

void top_logprobs(const TopCall& call) {
  parallel_for(call.logits.count, [&](int64_t row) {
    const float* x = call.logits.data + row * call.logits.stride;
    float* best = call.logprobs + row * call.k;
    best_of(x, call.columns, call.k, call.ids + row * call.k, best);
    const float log_sum = log_sum_exp(x, call.columns, largest_of(x, call.columns));
    for (int64_t k = 0; k < call.k; ++k) best[k] -= log_sum;
    call.log_sums[row] = log_sum;
  });
}

}  // namespace tribody::TRIBODY_ISA
