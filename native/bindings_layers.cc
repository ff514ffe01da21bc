// Bindings of whole layers: objects that hold a model's matrices and pointers, checked once.
//
// They are made of the dataclasses of ops/layers.py, which they keep, and run any range of their
// layers in one call.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <tuple>
#include <utility>
#include <vector>

#include "bindings_pages.h"
#include "draft.h"

namespace tribody {
namespace {

// The arrays of a step: rows of x, cos and sin, slots, and a batch with its number of generated
// sequences.
using StepArrays = std::tuple<In, In, In, In, In, In, int64_t>;

// ---- reading a layer's record ---------------------------------------------------------------------

MatrixView matrix_in(nb::handle record, const char* name, int64_t rows, int64_t columns) {
  const auto& matrix = nb::cast<const Matrix&>(record.attr(name));
  check_plain(matrix, name);
  check_size((std::string(name) + " rows").c_str(), matrix.view().rows, rows);
  check_size((std::string(name) + " columns").c_str(), matrix.view().columns, columns);
  return matrix.view();
}

// (E, N, K)
MatrixView stack_in(const Matrix& matrix, const char* name, int64_t experts, int64_t rows,
                    int64_t columns) {
  check_size((std::string(name) + " matrices").c_str(), matrix.view().experts, experts);
  check_size((std::string(name) + " rows").c_str(), matrix.view().rows, rows);
  check_size((std::string(name) + " columns").c_str(), matrix.view().columns, columns);
  return matrix.view();
}

const float* vector_in(nb::handle record, const char* name, int64_t size) {
  return given_vector(nb::cast<In>(record.attr(name)), name, size);
}

const float* optional_vector_in(nb::handle record, const char* name, int64_t size) {
  return record.attr(name).is_none() ? nullptr : vector_in(record, name, size);
}

int64_t size_in(nb::handle record, const char* name) {
  const auto size = nb::cast<int64_t>(record.attr(name));
  check_positive(name, size, int64_t{1} << 24);
  return size;
}

// [gate; up] (2 I, H) and down (H, I), two of a pair.
std::pair<MatrixView, MatrixView> mlp_of(nb::handle gate_up, nb::handle down, int64_t hidden,
                                         int64_t experts) {
  const auto &first = nb::cast<const Matrix&>(gate_up), &second = nb::cast<const Matrix&>(down);
  const int64_t inner = second.view().columns;
  return {stack_in(first, "gate_up", experts, 2 * inner, hidden),
          stack_in(second, "down", experts, hidden, inner)};
}

// ---- a step ---------------------------------------------------------------------------------------

LayerPages layer_pages(const Out& pages, const char* name, size_t num_layers, PageArray& one,
                       std::initializer_list<int64_t> trailing) {
  std::vector<int64_t> axes{pages.ndim() > 1 ? static_cast<int64_t>(pages.shape(1)) : 0};
  axes.insert(axes.end(), trailing);
  const PageArray all = pages_of(pages, name, axes);
  check_size((std::string("layers of ") + name).c_str(), all.count,
             static_cast<int64_t>(num_layers));
  one = {all.data, all.half, axes[0]};
  int64_t bytes = all.half ? 2 : 4;
  for (const int64_t axis : axes) bytes *= axis;
  return {static_cast<uint8_t*>(all.data), bytes, all.half};
}

// All but the activations.
LayerStep step_of(const std::pair<int64_t, int64_t>& range, size_t num_layers, int64_t rows,
                  const StepArrays& arrays, int64_t rotated, int64_t num_pages) {
  const auto& [cos, sin, slots, row_starts, starts, page_tables, num_generated] = arrays;
  LayerStep step{};
  std::tie(step.first_layer, step.end_layer) = range;
  if (step.first_layer < 0 || step.end_layer > static_cast<int64_t>(num_layers) ||
      step.first_layer > step.end_layer) {
    fail("layers [" + text(step.first_layer) + ", " + text(step.end_layer) + ") of " +
         text(static_cast<int64_t>(num_layers)));
  }
  step.rows = rows;
  step.cos = rows_of<const float>(cos, "cos", step.rows, rotated / 2);
  step.sin = rows_of<const float>(sin, "sin", step.rows, rotated / 2);
  step.slots = slots_of(slots, step.rows, num_pages);
  step.batch = batch_of(row_starts, starts, page_tables, step.rows, num_pages);
  step.num_generated = num_generated;
  if (num_generated < 0 || num_generated > step.batch.num_sequences) {
    fail("num_generated is " + text(num_generated) + " of " + text(step.batch.num_sequences) +
         " sequences");
  }
  return step;
}

// ---- grouped-query attention ----------------------------------------------------------------------

class GroupedQueryLayers {
 public:
  GroupedQueryLayers(const nb::list& layers, const nb::object& spec) : records_(layers) {
    call_.num_heads = size_in(spec, "num_heads");
    call_.num_kv_heads = size_in(spec, "num_kv_heads");
    call_.head_dim = size_in(spec, "head_dim");
    check_heads(call_.num_heads, call_.num_kv_heads, call_.head_dim);
    check_even("head_dim", call_.head_dim);
    hidden_ = size_in(spec, "hidden_size");
    call_.eps = nb::cast<float>(spec.attr("eps"));
    call_.scale = nb::cast<float>(spec.attr("scale"));
    for (nb::handle record : layers) layers_.push_back(read(record));
    call_.layers = layers_.data();
  }

  void run(const std::pair<int64_t, int64_t>& range, const Out& x, const StepArrays& arrays,
           const Out& keys, const Out& values) const {
    GroupedQueryCall call = call_;
    PageArray k{}, v{};
    call.keys = layer_pages(keys, "K pages", layers_.size(), k,
                            {call.num_kv_heads, call.head_dim, kPage});
    call.values = layer_pages(values, "V pages", layers_.size(), v,
                              {call.num_kv_heads, kPage, call.head_dim});
    check_same_kind(k, v);
    const int64_t rows = rows_in(x, "x");
    call.step = step_of(range, layers_.size(), rows, arrays, call.head_dim, k.count);
    call.step.x = rows_of<float>(x, "x", rows, hidden_);
    nb::gil_scoped_release release;
    TRIBODY_DISPATCH(grouped_query_layers(call));
  }

 private:
  GroupedQueryLayer read(nb::handle record) const {
    const int64_t q_rows = call_.num_heads * call_.head_dim;
    const int64_t all_rows = q_rows + 2 * call_.num_kv_heads * call_.head_dim;
    GroupedQueryLayer layer{};
    layer.input_norm = vector_in(record, "input_layernorm", hidden_);
    layer.qkv = matrix_in(record, "qkv_proj", all_rows, hidden_);
    layer.qkv_bias = optional_vector_in(record, "qkv_bias", all_rows);
    if (!record.attr("qk_norm").is_none()) {
      const nb::object norms = record.attr("qk_norm");
      layer.q_norm = given_vector(nb::cast<In>(norms[0]), "the q norm", call_.head_dim);
      layer.k_norm = given_vector(nb::cast<In>(norms[1]), "the k norm", call_.head_dim);
    }
    layer.o = matrix_in(record, "o_proj", hidden_, q_rows);
    layer.o_bias = optional_vector_in(record, "o_bias", hidden_);
    layer.post_norm = vector_in(record, "post_attention_layernorm", hidden_);
    const nb::object mlp = record.attr("mlp");
    std::tie(layer.gate_up, layer.down) =
        mlp_of(mlp.attr("gate_up_proj"), mlp.attr("down_proj"), hidden_, 1);
    return layer;
  }

  nb::list records_;
  std::vector<GroupedQueryLayer> layers_;
  int64_t hidden_;
  GroupedQueryCall call_{};
};

// ---- latent attention -----------------------------------------------------------------------------

class LatentLayers {
 public:
  LatentLayers(const nb::list& layers, const nb::object& spec, const nb::object& router)
      : records_(layers) {
    call_.num_heads = size_in(spec, "num_heads");
    call_.nope = size_in(spec, "nope");
    call_.rope = size_in(spec, "rope");
    check_even("the rope part", call_.rope);
    call_.rank = size_in(spec, "rank");
    call_.value_dim = size_in(spec, "value_dim");
    call_.interleaved = nb::cast<bool>(spec.attr("rope_interleave"));
    hidden_ = size_in(spec, "hidden_size");
    call_.eps = nb::cast<float>(spec.attr("eps"));
    call_.scale = nb::cast<float>(spec.attr("scale"));
    if (!router.is_none()) spec_ = nb::cast<RouteSpec>(router);
    for (nb::handle record : layers) layers_.push_back(read(record));
    call_.layers = layers_.data();
  }

  void run(const std::pair<int64_t, int64_t>& range, const Out& x, const StepArrays& arrays,
           const Out& pages) const {
    const int64_t rows = rows_in(x, "x");
    LatentCall call = call_of(range, rows, arrays, pages);
    call.step.x = rows_of<float>(x, "x", rows, hidden_);
    nb::gil_scoped_release release;
    TRIBODY_DISPATCH(latent_layers(call));
  }

  // All but the activations.
  LatentCall call_of(const std::pair<int64_t, int64_t>& range, int64_t rows,
                     const StepArrays& arrays, const Out& pages) const {
    LatentCall call = call_;
    PageArray one{};
    call.pages = layer_pages(pages, "latent pages", layers_.size(), one,
                             {kPage, call.rank + call.rope});
    call.step = step_of(range, layers_.size(), rows, arrays, call.rope, one.count);
    return call;
  }

  int64_t hidden_size() const { return hidden_; }
  size_t num_layers() const { return layers_.size(); }

 private:
  LatentLayer read(nb::handle record) {
    const int64_t heads = call_.num_heads, kv_rows = call_.rank + call_.rope;
    const int64_t q_rows = heads * (call_.nope + call_.rope);
    LatentLayer layer{};
    layer.input_norm = vector_in(record, "input_layernorm", hidden_);
    if (record.attr("q_b").is_none()) {
      layer.a = matrix_in(record, "a_proj", q_rows + kv_rows, hidden_);
    } else {
      const nb::object pair = record.attr("q_b");
      const auto& q_b = nb::cast<const Matrix&>(pair[1]);
      const int64_t rank = q_b.view().columns;
      layer.q_norm = given_vector(nb::cast<In>(pair[0]), "q_a_layernorm", rank);
      layer.q_b = stack_in(q_b, "q_b_proj", 1, q_rows, rank);
      layer.a = matrix_in(record, "a_proj", rank + kv_rows, hidden_);
    }
    layer.kv_norm = vector_in(record, "kv_a_layernorm", call_.rank);
    layer.kv_b =
        matrix_in(record, "kv_b_proj", heads * (call_.nope + call_.value_dim), call_.rank);
    layer.w_uk = stack_in(nb::cast<const Matrix&>(record.attr("w_uk")), "w_uk", heads,
                          call_.rank, call_.nope);
    layer.w_uv = stack_in(nb::cast<const Matrix&>(record.attr("w_uv")), "w_uv", heads,
                          call_.value_dim, call_.rank);
    layer.o = matrix_in(record, "o_proj", hidden_, heads * call_.value_dim);
    layer.post_norm = vector_in(record, "post_attention_layernorm", hidden_);
    layer.mlp = read_mlp(record.attr("mlp"));
    return layer;
  }

  LayerExperts read_mlp(nb::handle mlp) {
    LayerExperts to{};
    if (nb::hasattr(mlp, "gate_up_proj")) {
      std::tie(to.gate_up, to.down) =
          mlp_of(mlp.attr("gate_up_proj"), mlp.attr("down_proj"), hidden_, 1);
      return to;
    }
    to.gate = nb::cast<const Matrix&>(mlp.attr("gate")).view();
    const int64_t num_experts = to.gate.rows;
    matrix_in(mlp, "gate", num_experts, hidden_);
    to.bias = optional_vector_in(mlp, "e_score_correction_bias", num_experts);
    const nb::object routed = mlp.attr("experts"), shared = mlp.attr("shared_experts");
    std::tie(to.gate_up, to.down) = mlp_of(routed[0], routed[1], hidden_, num_experts);
    to.has_shared = !shared.is_none();
    if (to.has_shared) {
      std::tie(to.shared_gate_up, to.shared_down) = mlp_of(shared[0], shared[1], hidden_, 1);
    }
    call_.router = router_of(spec_, num_experts);
    return to;
  }

  nb::list records_;
  std::vector<LatentLayer> layers_;
  RouteSpec spec_{};
  int64_t hidden_;
  LatentCall call_{};
};

// ---- the drafter ----------------------------------------------------------------------------------

// cos and sin of positions [0, N).
using Angles = std::pair<In, In>;

class Drafter {
 public:
  Drafter(const nb::object& module, const nb::object& spec, const nb::object& router)
      : module_(module), layer_(one_layer(module), spec, router) {
    const int64_t hidden = layer_.hidden_size();
    call_.enorm = vector_in(module, "enorm", hidden);
    call_.hnorm = vector_in(module, "hnorm", hidden);
    call_.norm = vector_in(module, "norm", hidden);
    call_.eh_proj = matrix_in(module, "eh_proj", hidden, 2 * hidden);
    const int64_t vocabulary = nb::cast<const Matrix&>(module.attr("lm_head")).view().rows;
    call_.lm_head = matrix_in(module, "lm_head", vocabulary, hidden);
    call_.embed_tokens = matrix_in(module, "embed_tokens", vocabulary, hidden);
  }

  void run(const In& token_ids, const In& hidden, const StepArrays& arrays, const In& heads,
           const Angles& angles, const Out& pages, const Out& tokens, const Out& states) const {
    DraftCall call = call_;
    const int64_t rows = rows_in(hidden, "hidden"), size = layer_.hidden_size();
    call.layer = layer_.call_of({0, 1}, rows, arrays, pages);
    call.hidden = rows_of<const float>(hidden, "hidden", rows, size);
    call.token_ids = checked<int32_t>(token_ids, "token_ids", 1);
    check_size("token_ids", static_cast<int64_t>(token_ids.shape(0)), rows);
    for (int64_t t = 0; t < rows; ++t)
      if (call.token_ids[t] < 0 || call.token_ids[t] >= call.embed_tokens.rows)
        fail("token " + text(t) + " is " + text(call.token_ids[t]) + ", expected 0 to " +
             text(call.embed_tokens.rows - 1));
    call.tokens = checked<int32_t>(tokens, "tokens", 2);
    call.passes = static_cast<int64_t>(tokens.shape(0));
    call.num_heads = static_cast<int64_t>(tokens.shape(1));
    if (call.passes < 1) fail("tokens has no passes");
    if (call.passes > 1 && call.num_heads > 0)
      check_size("tokens: the stride", tokens.stride(0), call.num_heads);
    call.states = rows_of<float>(states, "states", call.num_heads, size);
    const int64_t reach = rows_in(angles.first, "the table of cos");
    call.cos = rows_of<const float>(angles.first, "the table of cos", reach, call.layer.rope / 2);
    call.sin = rows_of<const float>(angles.second, "the table of sin", reach, call.layer.rope / 2);
    call.heads = checked<int64_t>(heads, "heads", 1);
    check_size("heads", static_cast<int64_t>(heads.shape(0)), call.num_heads);
    check_heads_of(call, static_cast<int64_t>(pages.shape(1)), reach);
    nb::gil_scoped_release release;
    TRIBODY_DISPATCH(draft(call));
  }

 private:
  static nb::list one_layer(const nb::object& module) {
    nb::list layers;
    layers.append(module.attr("layer"));
    return layers;
  }

  // Heads are rows of the step, rising.  If they are to go on they are their sequences' last, no
  // page behind them is out of range (-1 ends a page table), and every position has its angles.
  static void check_heads_of(const DraftCall& call, int64_t num_pages, int64_t reach) {
    const Batch& batch = call.layer.step.batch;
    int64_t sequence = 0;
    for (int64_t r = 0; r < call.num_heads; ++r) {
      const int64_t row = call.heads[r];
      if (row < 0 || row >= call.layer.step.rows || (r > 0 && row <= call.heads[r - 1]))
        fail("head " + text(r) + " is row " + text(row) + " of " + text(call.layer.step.rows));
      if (call.passes == 1) continue;
      while (batch.row_starts[sequence + 1] <= row) ++sequence;
      if (row + 1 != batch.row_starts[sequence + 1])
        fail("row " + text(row) + " is not its sequence's last and cannot go on");
      const int64_t end = batch.starts[sequence] + batch.rows(sequence) + call.passes - 1;
      if (end > reach && batch.table_length * kPage > reach)
        fail("head " + text(r) + " goes on to position " + text(end - 1) + " of " + text(reach) +
             " with angles");
      for (int64_t i = 0; i < batch.table_length && i * kPage < end; ++i)
        if (batch.table(sequence)[i] >= num_pages)
          fail("page " + text(i) + " of sequence " + text(sequence) + " is out of range");
    }
  }

  nb::object module_;
  LatentLayers layer_;
  DraftCall call_{};
};

}  // namespace

void bind_layers(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<GroupedQueryLayers>(module, "GroupedQueryLayers")
      .def(nb::init<const nb::list&, const nb::object&>(), "layers"_a, "spec"_a)
      .def("run", &GroupedQueryLayers::run, "layers"_a, "x"_a, "arrays"_a, "keys"_a, "values"_a);
  nb::class_<LatentLayers>(module, "LatentLayers")
      .def(nb::init<const nb::list&, const nb::object&, const nb::object&>(), "layers"_a, "spec"_a,
           "router"_a.none())
      .def("run", &LatentLayers::run, "layers"_a, "x"_a, "arrays"_a, "pages"_a);
  nb::class_<Drafter>(module, "Drafter")
      .def(nb::init<const nb::object&, const nb::object&, const nb::object&>(), "module"_a,
           "spec"_a, "router"_a.none())
      .def("run", &Drafter::run, "token_ids"_a, "hidden"_a, "arrays"_a, "heads"_a, "angles"_a,
           "pages"_a, "tokens"_a, "states"_a);
}

}  // namespace tribody
