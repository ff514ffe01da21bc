// The operators by name.  Each fills the struct that bindings*.cc fill, without their checks: the
// file of cases is our own.
#include "operators.h"

#include <cstring>

#include "moe.h"
#include "norm.h"
#include "pack.h"
#include "sampling.h"

namespace tribody {
namespace {

Norm norm_of(const Arguments& a) {
  if (!a.has("norm")) return {};
  return {a.at<const float>("norm"), a.number("eps")};
}

// Packing is done; its answer is the bytes.
void run_pack(const Arguments& a, int64_t, int64_t) {
  std::memcpy(a.at<std::byte>("bytes"), a.packed().at("weights").data,
              static_cast<size_t>(a.columns("bytes")));
}

void run_embed(const Arguments& a, int64_t first, int64_t end) {
  const EmbedCall call{a.packed().at("table"), a.at<const int32_t>("token_ids") + first, end - first,
                       a.at<float>("out", first), a.stride("out")};
  TRIBODY_DISPATCH(embed(call));
}

void run_rms_norm(const Arguments& a, int64_t first, int64_t end) {
  const Norm norm{a.at<const float>("weight"), a.number("eps")};
  TRIBODY_DISPATCH(rms_norm(a.rows("x", first, end), norm, a.columns("x"), a.at<float>("out", first),
                            a.stride("out")));
}

void run_linear(const Arguments& a, int64_t first, int64_t end) {
  LinearCall call{a.rows("x", first, end), norm_of(a), a.packed().at("weights"),
                  {a.at<float>("out", first), a.stride("out")}};
  call.out.bias = a.at<const float>("bias");
  call.out.residual = a.at<const float>("residual", first);
  call.out.residual_stride = a.stride("residual");
  TRIBODY_DISPATCH(linear(call));
}

void run_norm_mlp(const Arguments& a, int64_t first, int64_t end) {
  const MlpCall call{a.at<float>("x", first), a.stride("x"),         end - first,
                     norm_of(a),              a.packed().at("gate_up"), a.packed().at("down")};
  TRIBODY_DISPATCH(norm_mlp(call));
}

void run_moe(const Arguments& a, int64_t first, int64_t end) {
  MoeCall call{};
  call.x = a.rows("x", first, end);
  call.experts = a.at<const int32_t>("experts", first);
  call.experts_stride = a.stride("experts");
  call.weights = a.at<const float>("weights", first);
  call.weights_stride = a.stride("weights");
  call.top_k = a.columns("experts");
  call.gate_up = a.packed().at("gate_up");
  call.down = a.packed().at("down");
  if (a.packed().has("shared_gate_up")) {
    call.shared_gate_up = &a.packed().at("shared_gate_up");
    call.shared_down = &a.packed().at("shared_down");
  }
  call.out = a.at<float>("out", first);
  call.out_stride = a.stride("out");
  TRIBODY_DISPATCH(moe(call));
}

// The part of a step's batch that rows [first, end) make up.
class PartOfBatch {
 public:
  PartOfBatch(const Arguments& a, int64_t first, int64_t end) {
    const auto *row_starts = a.at<const int32_t>("row_starts"),
               *starts = a.at<const int32_t>("starts");
    const int64_t count = a.columns("starts");
    row_starts_.push_back(0);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t low = row_starts[b] > first ? row_starts[b] : first;
      const int64_t high = row_starts[b + 1] < end ? row_starts[b + 1] : end;
      const int64_t rows = high > low ? high - low : 0;
      starts_.push_back(static_cast<int32_t>(starts[b] + (rows > 0 ? low - row_starts[b] : 0)));
      row_starts_.push_back(static_cast<int32_t>(row_starts_.back() + rows));
    }
    // Memory that ends with the data, for AddressSanitizer.
    row_starts_.shrink_to_fit();
    starts_.shrink_to_fit();
    batch = {count,
             row_starts_.data(),
             starts_.data(),
             a.at<const int32_t>("page_tables"),
             a.columns("page_tables"),
             a.stride("page_tables")};
  }

  Batch batch;

 private:
  std::vector<int32_t> row_starts_, starts_;
};

void run_rope_store(const Arguments& a, int64_t first, int64_t end) {
  RopeCall call{};
  call.qkv = a.array2<float>("qkv", first);
  call.rows = end - first;
  call.num_heads = a.integer("num_heads");
  call.num_kv_heads = a.integer("num_kv_heads");
  call.head_dim = a.integer("head_dim");
  call.cos = a.array2<const float>("cos", first);
  call.sin = a.array2<const float>("sin", first);
  call.q_weight = a.at<const float>("q_norm");
  call.k_weight = a.at<const float>("k_norm");
  call.eps = a.number("eps");
  call.slots = a.at<const int64_t>("slots") + first;
  call.k_pages = a.at<std::byte>("k_pages");
  call.v_pages = a.at<std::byte>("v_pages");
  call.half = a.half("k_pages");
  TRIBODY_DISPATCH(rope_store(call));
}

void run_attend(const Arguments& a, int64_t first, int64_t end) {
  const PartOfBatch part(a, first, end);
  AttendCall call{};
  call.q = a.array2<const float>("q", first);
  call.num_heads = a.integer("num_heads");
  call.num_kv_heads = a.integer("num_kv_heads");
  call.head_dim = a.integer("head_dim");
  call.k_pages = a.at<const std::byte>("k_pages");
  call.v_pages = a.at<const std::byte>("v_pages");
  call.half = a.half("k_pages");
  call.batch = part.batch;
  call.scale = a.number("scale");
  call.out = a.array2<float>("out", first);
  TRIBODY_DISPATCH(attend(call));
}

void run_mla_store(const Arguments& a, int64_t first, int64_t end) {
  MlaStoreCall call{};
  call.q = a.array2<float>("q", first);
  call.rows = end - first;
  call.num_heads = a.integer("num_heads");
  call.nope = a.integer("nope");
  call.rope = a.integer("rope");
  call.kv_a = a.array2<const float>("kv_a", first);
  call.norm = a.at<const float>("norm");
  call.rank = a.columns("norm");
  call.eps = a.number("eps");
  call.cos = a.array2<const float>("cos", first);
  call.sin = a.array2<const float>("sin", first);
  call.interleaved = a.integer("interleaved") != 0;
  call.slots = a.at<const int64_t>("slots") + first;
  call.pages = a.at<std::byte>("pages");
  call.half = a.half("pages");
  TRIBODY_DISPATCH(mla_store(call));
}

MlaAttendCall mla_call(const Arguments& a, int64_t first, int64_t end, const Batch& batch) {
  MlaAttendCall call{};
  call.q = a.array2<const float>("q", first);
  call.rows = end - first;
  call.num_heads = a.integer("num_heads");
  call.nope = a.integer("nope");
  call.rope = a.integer("rope");
  call.value_dim = a.integer("value_dim");
  call.pages = a.at<const std::byte>("pages");
  call.half = a.half("pages");
  call.batch = batch;
  call.scale = a.number("scale");
  call.out = a.array2<float>("out", first);
  return call;
}

void run_mla_attend_absorbed(const Arguments& a, int64_t first, int64_t end) {
  const PartOfBatch part(a, first, end);
  MlaAttendCall call = mla_call(a, first, end, part.batch);
  call.w_uk = &a.packed().at("w_uk");
  call.w_uv = &a.packed().at("w_uv");
  call.rank = call.w_uk->rows;
  TRIBODY_DISPATCH(mla_attend_absorbed(call));
}

void run_mla_attend_expanded(const Arguments& a, int64_t first, int64_t end) {
  const PartOfBatch part(a, first, end);
  MlaAttendCall call = mla_call(a, first, end, part.batch);
  call.kv_b = &a.packed().at("kv_b");
  call.rank = call.kv_b->columns;
  TRIBODY_DISPATCH(mla_attend_expanded(call));
}

void run_route(const Arguments& a, int64_t first, int64_t end) {
  RouteCall call{};
  call.logits = a.rows("logits", first, end);
  call.num_experts = a.columns("logits");
  call.bias = a.at<const float>("bias");
  call.top_k = a.integer("top_k");
  call.num_groups = a.integer("num_groups");
  call.top_groups = a.integer("top_groups");
  call.sigmoid = a.integer("sigmoid") != 0;
  call.group_by_two = a.integer("group_by_two") != 0;
  call.normalize = a.integer("normalize") != 0;
  call.scale = a.number("scale");
  call.experts = a.at<int32_t>("experts", first);
  call.experts_stride = a.stride("experts");
  call.weights = a.at<float>("weights", first);
  call.weights_stride = a.stride("weights");
  TRIBODY_DISPATCH(route(call));
}

void run_argmax(const Arguments& a, int64_t first, int64_t end) {
  TRIBODY_DISPATCH(
      argmax(a.rows("logits", first, end), a.columns("logits"), a.at<int32_t>("out") + first));
}

void run_top_logprobs(const Arguments& a, int64_t first, int64_t end) {
  const TopCall call{a.rows("logits", first, end), a.columns("logits"),
                     a.integer("k"),               a.at<int32_t>("ids", first),
                     a.at<float>("logprobs", first), a.at<float>("log_sums") + first};
  TRIBODY_DISPATCH(top_logprobs(call));
}

void run_exponential(const Arguments& a, int64_t first, int64_t end) {
  TRIBODY_DISPATCH(exponential(a.at<const float>("x") + first, end - first,
                               a.at<float>("out") + first));
}

constexpr Operator kOperators[] = {
    {"pack", nullptr, run_pack},
    {"embed", "token_ids", run_embed},
    {"rms_norm", "x", run_rms_norm},
    {"linear", "x", run_linear},
    {"norm_linear", "x", run_linear},
    {"norm_mlp", "x", run_norm_mlp},
    {"moe", "x", run_moe},
    {"rope_store", "qkv", run_rope_store},
    {"attend", "q", run_attend},
    {"mla_store", "q", run_mla_store},
    {"mla_attend_absorbed", "q", run_mla_attend_absorbed},
    {"mla_attend_expanded", "q", run_mla_attend_expanded},
    {"route", "logits", run_route},
    {"argmax", "logits", run_argmax},
    {"top_logprobs", "logits", run_top_logprobs},
    {"exponential", "x", run_exponential},
};

}  // namespace

const Operator* operator_named(const std::string& name) {
  for (const Operator& known : kOperators) {
    if (name == known.name) return &known;
  }
  return nullptr;
}

}  // namespace tribody
