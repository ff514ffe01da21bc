// Decoder layers, one after the other: the kernels of their parts on activations in scratch.
#include "layers.h"

namespace tribody::TRIBODY_ISA {
namespace {

Rows rows_at(const Array2<float>& x, int64_t count) { return {x.data, x.stride, count}; }

// out (T, N) = x @ w.T, with x normalised first where the norm has weights.
void product(const Rows& x, const Norm& norm, const MatrixView& w, const float* bias,
             const Array2<float>& out) {
  linear({x, norm, w, {out.data, out.stride, bias}});
}

// x += mixed @ w.T + bias
void add_product(const Array2<float>& mixed, const MatrixView& w, const float* bias,
                 const LayerStep& step) {
  const Array2<float>& x = step.x;
  linear({rows_at(mixed, step.rows), {}, w, {x.data, x.stride, bias, x.data, x.stride}});
}

void add_mlp(const MatrixView& gate_up, const MatrixView& down, const Norm& norm,
             const LayerStep& step) {
  norm_mlp({step.x.data, step.x.stride, step.rows, norm, gate_up, down});
}

Array2<float> rows_of_scratch(Scratch slot, int64_t rows, int64_t columns) {
  return {scratch<float>(slot, rows * columns), columns};
}

template <typename T>
Array2<const T> read_only(const Array2<T>& x) {
  return {x.data, x.stride};
}

// ---- latent attention -----------------------------------------------------------------------------

// The sequences [first, end) of a batch, rows counted from the first one's; row_starts are copied.
Batch part_of(const Batch& batch, int64_t first, int64_t end, int32_t* row_starts) {
  Batch part = batch;
  part.num_sequences = end - first;
  for (int64_t b = first; b <= end; ++b) {
    row_starts[b - first] = batch.row_starts[b] - batch.row_starts[first];
  }
  part.row_starts = row_starts;
  part.starts = batch.starts + first;
  part.page_tables = batch.page_tables + first * batch.table_stride;
  return part;
}

// Activations of a step, which its layers share.
class LatentRun {
 public:
  explicit LatentRun(const LatentCall& call) : call_(call), step_(call.step) {
    const int64_t q_width = call.num_heads * (call.nope + call.rope);
    const LatentLayer& some = call.layers[step_.first_layer];
    const int64_t kv_width = call.rank + call.rope, first_width = some.a.rows - kv_width;
    joined_ = rows_of_scratch(Scratch::layer_first, step_.rows, some.a.rows);
    kv_a_ = {joined_.data + first_width, joined_.stride};
    q_ = some.q_norm == nullptr ? joined_
                                : rows_of_scratch(Scratch::layer_q, step_.rows, q_width);
    mixed_ = rows_of_scratch(Scratch::layer_mixed, step_.rows, call.num_heads * call.value_dim);
    const Batch& batch = step_.batch;
    auto* row_starts = scratch<int32_t>(Scratch::layer_rows, batch.num_sequences + 2);
    generated_ = part_of(batch, 0, step_.num_generated, row_starts);
    prompts_ = part_of(batch, step_.num_generated, batch.num_sequences,
                       row_starts + step_.num_generated + 1);
    cut_ = batch.row_starts[step_.num_generated];
  }

  void run() {
    for (int64_t i = step_.first_layer; i < step_.end_layer; ++i) {
      const LatentLayer& layer = call_.layers[i];
      attend(layer, call_.pages.of(i));
      add_product(mixed_, layer.o, nullptr, step_);
      if (layer.mlp.gate.data == nullptr) {
        add_mlp(layer.mlp.gate_up, layer.mlp.down, {layer.post_norm, call_.eps}, step_);
      } else {
        add_experts(layer.mlp, {layer.post_norm, call_.eps});
      }
    }
  }

 private:
  void attend(const LatentLayer& layer, void* pages) {
    const Norm norm{layer.input_norm, call_.eps};
    product(rows_at(step_.x, step_.rows), norm, layer.a, nullptr, joined_);
    if (layer.q_norm != nullptr) {
      const Norm q_norm{layer.q_norm, call_.eps};
      product(rows_at(joined_, step_.rows), q_norm, layer.q_b, nullptr, q_);
    }
    mla_store({.q = q_,
               .rows = step_.rows,
               .num_heads = call_.num_heads,
               .nope = call_.nope,
               .rope = call_.rope,
               .kv_a = read_only(kv_a_),
               .norm = layer.kv_norm,
               .rank = call_.rank,
               .eps = call_.eps,
               .cos = step_.cos,
               .sin = step_.sin,
               .interleaved = call_.interleaved,
               .slots = step_.slots,
               .pages = pages,
               .half = call_.pages.half});
    MlaAttendCall part{.q = {},
                       .rows = 0,
                       .num_heads = call_.num_heads,
                       .nope = call_.nope,
                       .rope = call_.rope,
                       .rank = call_.rank,
                       .value_dim = call_.value_dim,
                       .w_uk = &layer.w_uk,
                       .w_uv = &layer.w_uv,
                       .kv_b = &layer.kv_b,
                       .pages = pages,
                       .half = call_.pages.half,
                       .batch = {},
                       .scale = call_.scale,
                       .out = {}};
    if (cut_ > 0) {
      part.q = read_only(q_);
      part.rows = cut_;
      part.batch = generated_;
      part.out = mixed_;
      mla_attend_absorbed(part);
    }
    if (cut_ < step_.rows) {
      part.q = {q_.row(cut_), q_.stride};
      part.rows = step_.rows - cut_;
      part.batch = prompts_;
      part.out = {mixed_.row(cut_), mixed_.stride};
      mla_attend_expanded(part);
    }
  }

  void add_experts(const LayerExperts& experts, const Norm& norm) {
    const int64_t width = experts.gate.columns, top_k = call_.router.top_k, rows = step_.rows;
    const Array2<float> hidden = rows_of_scratch(Scratch::layer_hidden, rows, width);
    const Array2<float> scores = rows_of_scratch(Scratch::layer_scores, rows, experts.gate.rows);
    const Array2<float> shares = rows_of_scratch(Scratch::layer_shares, rows, top_k);
    auto* chosen = scratch<int32_t>(Scratch::layer_chosen, rows * top_k);
    rms_norm(rows_at(step_.x, rows), norm, width, hidden.data, hidden.stride);
    product(rows_at(hidden, rows), {}, experts.gate, nullptr, scores);
    RouteCall router = call_.router;
    router.logits = rows_at(scores, rows);
    router.num_experts = experts.gate.rows;
    router.bias = experts.bias;
    router.experts = chosen;
    router.experts_stride = top_k;
    router.weights = shares.data;
    router.weights_stride = top_k;
    route(router);
    MoeCall call{};
    call.x = rows_at(hidden, rows);
    call.experts = chosen;
    call.experts_stride = top_k;
    call.weights = shares.data;
    call.weights_stride = top_k;
    call.top_k = top_k;
    call.gate_up = experts.gate_up;
    call.down = experts.down;
    if (experts.has_shared) {
      call.shared_gate_up = &experts.shared_gate_up;
      call.shared_down = &experts.shared_down;
    }
    call.out = step_.x.data;
    call.out_stride = step_.x.stride;
    moe(call);
  }

  const LatentCall& call_;
  const LayerStep& step_;
  Array2<float> joined_, kv_a_, q_, mixed_;
  Batch generated_, prompts_;
  int64_t cut_;
};

}  // namespace

void grouped_query_layers(const GroupedQueryCall& call) {
  const LayerStep& step = call.step;
  const int64_t heads = call.num_heads, kv_heads = call.num_kv_heads, dim = call.head_dim;
  if (step.rows == 0) return;
  const auto qkv = rows_of_scratch(Scratch::layer_first, step.rows, (heads + 2 * kv_heads) * dim);
  const auto mixed = rows_of_scratch(Scratch::layer_mixed, step.rows, heads * dim);
  for (int64_t i = step.first_layer; i < step.end_layer; ++i) {
    const GroupedQueryLayer& layer = call.layers[i];
    void *keys = call.keys.of(i), *values = call.values.of(i);
    const Norm norm{layer.input_norm, call.eps};
    product(rows_at(step.x, step.rows), norm, layer.qkv, layer.qkv_bias, qkv);
    const RopeCall rope{.qkv = qkv,
                        .rows = step.rows,
                        .num_heads = heads,
                        .num_kv_heads = kv_heads,
                        .head_dim = dim,
                        .cos = step.cos,
                        .sin = step.sin,
                        .q_weight = layer.q_norm,
                        .k_weight = layer.k_norm,
                        .eps = call.eps,
                        .slots = step.slots,
                        .k_pages = keys,
                        .v_pages = values,
                        .half = call.keys.half};
    attend({.rope = &rope,
            .q = read_only(qkv),
            .num_heads = heads,
            .num_kv_heads = kv_heads,
            .head_dim = dim,
            .k_pages = keys,
            .v_pages = values,
            .half = call.keys.half,
            .batch = step.batch,
            .scale = call.scale,
            .out = mixed});
    add_product(mixed, layer.o, layer.o_bias, step);
    add_mlp(layer.gate_up, layer.down, {layer.post_norm, call.eps}, step);
  }
}

void latent_layers(const LatentCall& call) {
  if (call.step.rows > 0 && call.step.first_layer < call.step.end_layer) LatentRun(call).run();
}

}  // namespace tribody::TRIBODY_ISA
