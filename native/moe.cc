// The gated MLP and the mixture of experts.
//
// Work is a list of segments: rows that meet one gate_up and one down matrix.  The MLP is one
// segment; MoE has one per expert that was chosen (its rows sorted by expert, so that each weight
// is read once a step) and one for the shared expert.  Two parallel regions run all segments:
// gate_up with silu and, where down takes it, the rounding to A8 in the same chunk; then down.
#include "moe.h"

#include "simd.h"

namespace tribody::TRIBODY_ISA {
namespace {

struct Segment {
  const MatrixView* gate_up;
  const MatrixView* down;
  int64_t expert;
  Activations input;
  Activations hidden;    // silu(gate) * up: down's input
  float* hidden_values;  // its floats (count, I); null when only codes are kept
  float* wide;           // (count, 2 I) when gate and up do not meet at a panel's edge; else null
  Output out;
  int64_t columns_per_chunk, first_hidden_chunk;  // of I
  int64_t panels_per_chunk, first_down_chunk;

  int64_t intermediate() const { return down->columns; }
  int64_t row_chunks() const {
    return (input.count + tunables.rows_per_chunk - 1) / tunables.rows_per_chunk;
  }
};

TRIBODY_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TRIBODY_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether columns [a, b) of gate and of up, cut at multiples of the group, are whole panels of
// gate_up.
bool gate_meets_up(const MatrixView& down) { return down.columns % kGroup == 0; }

// out = silu(gate) * up; out may be gate.
void gated(const float* gate, const float* up, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    (silu(F32x8::load(gate + i)) * F32x8::load(up + i)).store(out + i);
  }
  if (i < count) {
    const F32x8 g = load_first(gate + i, count - i), u = load_first(up + i, count - i);
    store_first(silu(g) * u, out + i, count - i);
  }
}

// Columns [first, end) of the hidden layer for rows [row, end_row).
void hidden_part(const Segment& s, int64_t row, int64_t end_row, int64_t first, int64_t end) {
  const MatrixView& w = *s.gate_up;
  const int64_t width = end - first, height = panel_rows(w.format), up = s.intermediate();
  float* local = scratch<float>(Scratch::wide, (end_row - row) * 2 * width);
  // The spans' outputs land in `local`, gate's columns first, then up's.
  Output gate_out{local - row * 2 * width - first, 2 * width};
  Output up_out{local - row * 2 * width - up - first + width, 2 * width};
  multiply(s.input, w, s.expert, {row, end_row, first / height, end / height}, gate_out);
  multiply(s.input, w, s.expert, {row, end_row, (up + first) / height, (up + end) / height}, up_out);
  for (int64_t r = row; r < end_row; ++r) {
    float* gate = local + (r - row) * 2 * width;
    float* to = s.hidden_values == nullptr ? gate : s.hidden_values + r * up + first;
    gated(gate, gate + width, width, to);
    if (s.hidden.codes != nullptr) {
      quantize_groups(to, r, first / kGroup, end / kGroup, s.hidden);
    }
  }
}

// The same for whole rows whose products are in `wide`.
void hidden_rows(const Segment& s, int64_t row, int64_t end_row) {
  const int64_t count = s.intermediate();
  for (int64_t r = row; r < end_row; ++r) {
    float* gate = s.wide + r * 2 * count;
    float* to = s.hidden_values == nullptr ? gate : s.hidden_values + r * count;
    gated(gate, gate + count, count, to);
    if (s.hidden.codes != nullptr) quantize_groups(to, r, 0, s.hidden.groups, s.hidden);
  }
}

// The segment that owns chunk `chunk` of the numbering that `first` selects.
template <int64_t Segment::*First>
const Segment& owner(const Segment* segments, int64_t count, int64_t chunk) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (segments[middle].*First <= chunk ? low : high) = middle;
  }
  return segments[low];
}

void run_hidden(Segment* segments, int64_t count, int64_t macs) {
  int64_t chunks = 0;
  bool any_wide = false;
  for (int64_t i = 0; i < count; ++i) {
    Segment& s = segments[i];
    s.first_hidden_chunk = chunks;
    const int64_t rows = smaller(s.input.count, tunables.rows_per_chunk);
    // Columns of gate_up in `wide` form, pairs of columns of I otherwise; in units of a group.
    const int64_t columns = s.wide != nullptr ? s.gate_up->rows : s.intermediate();
    const int64_t unit = kGroup * rows * s.gate_up->columns * (s.wide != nullptr ? 1 : 2);
    s.columns_per_chunk = kGroup * units_per_chunk(macs, unit);
    chunks += divide_up(columns, s.columns_per_chunk) * s.row_chunks();
    any_wide |= s.wide != nullptr;
  }
  if (count == 1 && !any_wide && segments->row_chunks() == 1) {
    const MatrixView& w = *segments->gate_up;
    const int64_t panels = segments->columns_per_chunk / panel_rows(w.format);
    const int64_t up = segments->intermediate() / panel_rows(w.format), expert = segments->expert;
    begin_reading({w.panel(expert, 0), w.panel(expert, up), panels * w.bytes_per_panel(), chunks});
  }
  parallel_for(chunks, [&](int64_t chunk) {
    const Segment& s = owner<&Segment::first_hidden_chunk>(segments, count, chunk);
    const int64_t local = chunk - s.first_hidden_chunk;
    const int64_t row = local % s.row_chunks() * tunables.rows_per_chunk;
    const int64_t end_row = smaller(s.input.count, row + tunables.rows_per_chunk);
    const int64_t first = local / s.row_chunks() * s.columns_per_chunk;
    if (s.wide == nullptr) {
      hidden_part(s, row, end_row, first, smaller(s.intermediate(), first + s.columns_per_chunk));
    } else {
      const int64_t height = panel_rows(s.gate_up->format);
      const int64_t end = smaller(s.gate_up->num_panels(), (first + s.columns_per_chunk) / height);
      multiply(s.input, *s.gate_up, s.expert, {row, end_row, first / height, end},
               {s.wide, s.gate_up->rows});
    }
  });
  if (!any_wide) return;
  parallel_for(count, [&](int64_t i) {
    if (segments[i].wide != nullptr) hidden_rows(segments[i], 0, segments[i].input.count);
  });
}

void run_down(Segment* segments, int64_t count, int64_t macs) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    Segment& s = segments[i];
    s.first_down_chunk = chunks;
    const int64_t rows = smaller(s.input.count, tunables.rows_per_chunk);
    const int64_t unit = 2 * panel_rows(s.down->format) * rows * s.down->columns;
    s.panels_per_chunk = 2 * units_per_chunk(macs, unit);
    chunks += divide_up(s.down->num_panels(), s.panels_per_chunk) * s.row_chunks();
  }
  if (count == 1 && segments->row_chunks() == 1) {
    const MatrixView& w = *segments->down;
    begin_reading({w.panel(segments->expert, 0), nullptr,
                   segments->panels_per_chunk * w.bytes_per_panel(), chunks});
  }
  parallel_for(chunks, [&](int64_t chunk) {
    const Segment& s = owner<&Segment::first_down_chunk>(segments, count, chunk);
    const int64_t local = chunk - s.first_down_chunk;
    const int64_t row = local % s.row_chunks() * tunables.rows_per_chunk;
    const int64_t panel = local / s.row_chunks() * s.panels_per_chunk;
    multiply(s.hidden, *s.down, s.expert,
             {row, smaller(s.input.count, row + tunables.rows_per_chunk), panel,
              smaller(s.down->num_panels(), panel + s.panels_per_chunk)},
             s.out);
  });
}

// Where the hidden layers of all segments are kept: one piece of scratch per kind, cut in order.
struct HiddenMemory {
  int64_t values = 0, codes = 0, scales = 0, wide = 0;  // elements taken so far

  // Adds what one segment of `count` rows needs.
  void add(const MatrixView& down, int64_t count) {
    if (takes_a8(down.format)) {
      const int64_t places = tiled_rows(count) * num_groups(down.columns);
      codes += places * kGroup;
      scales += places;
    } else {
      values += count * down.columns;
    }
    if (!gate_meets_up(down)) wide += count * 2 * down.columns;
  }
};

struct HiddenPieces {
  float* values;
  int8_t* codes;
  A8Scale* scales;
  float* wide;

  explicit HiddenPieces(const HiddenMemory& total)
      : values(scratch<float>(Scratch::mid_values, total.values)),
        codes(scratch<int8_t>(Scratch::mid_codes, total.codes)),
        scales(scratch<A8Scale>(Scratch::mid_scales, total.scales)),
        wide(scratch<float>(Scratch::mid_wide, total.wide)) {}

  // Gives the segment its piece of each.  Its input, matrices and output are set.
  void assign(Segment& s) {
    HiddenMemory need;
    need.add(*s.down, s.input.count);
    s.hidden = {};
    s.hidden.count = s.input.count;
    s.hidden.columns = s.down->columns;
    s.hidden_values = nullptr;
    if (takes_a8(s.down->format)) {
      s.hidden.codes = codes;
      s.hidden.scales = scales;
      s.hidden.groups = num_groups(s.down->columns);
      s.hidden.height = tile_height(s.input.count);
    } else {
      s.hidden_values = values;
      s.hidden.values = values;
      s.hidden.stride = s.down->columns;
    }
    s.wide = gate_meets_up(*s.down) ? nullptr : wide;
    values += need.values;
    codes += need.codes;
    scales += need.scales;
    wide += need.wide;
  }
};

int64_t macs_of(const MatrixView& w, int64_t count) { return count * w.rows * w.columns; }

}  // namespace

void norm_mlp(const MlpCall& call) {
  if (call.count == 0) return;
  Segment segment{};
  segment.gate_up = &call.gate_up;
  segment.down = &call.down;
  segment.input = prepare({call.x, call.stride, call.count}, call.norm, call.gate_up);
  segment.out = {call.x, call.stride, nullptr, call.x, call.stride};
  HiddenMemory need;
  need.add(call.down, call.count);
  HiddenPieces pieces(need);
  pieces.assign(segment);
  run_hidden(&segment, 1, macs_of(call.gate_up, call.count));
  run_down(&segment, 1, macs_of(call.down, call.count));
}

namespace {

// The rows of a step sorted by expert.
struct Routing {
  int64_t* starts;    // (E + 1,): expert e owns places [starts[e], starts[e + 1])
  int32_t* rows;      // (T top_k,): the row at each place
  int64_t* place_of;  // (T, top_k): the place of a row's choice
};

Routing sort_by_expert(const MoeCall& call) {
  const int64_t num_experts = call.gate_up.experts, choices = call.x.count * call.top_k;
  auto* memory = scratch<int64_t>(Scratch::expert_lists, num_experts + 1 + 2 * choices);
  Routing r{memory, reinterpret_cast<int32_t*>(memory + num_experts + 1 + choices),
            memory + num_experts + 1};
  memset(r.starts, 0, static_cast<size_t>(num_experts + 1) * sizeof(int64_t));
  for (int64_t t = 0; t < call.x.count; ++t) {
    for (int64_t k = 0; k < call.top_k; ++k) {
      ++r.starts[call.experts[t * call.experts_stride + k] + 1];
    }
  }
  for (int64_t e = 0; e < num_experts; ++e) r.starts[e + 1] += r.starts[e];
  for (int64_t t = 0; t < call.x.count; ++t) {
    for (int64_t k = 0; k < call.top_k; ++k) {
      const int64_t place = r.starts[call.experts[t * call.experts_stride + k]]++;
      r.rows[place] = static_cast<int32_t>(t);
      r.place_of[t * call.top_k + k] = place;
    }
  }
  for (int64_t e = num_experts; e > 0; --e) r.starts[e] = r.starts[e - 1];
  r.starts[0] = 0;
  return r;
}

// A segment's input: the rows that `rows` lists.  Codes are copied from `all` into row tiles of
// their own (32 bytes at a time; the weights that they meet are hundreds of times that).
Activations gather(const Activations& all, const int32_t* rows, int64_t count, int8_t* codes,
                   A8Scale* scales) {
  Activations picked = all;
  picked.count = count;
  if (all.codes == nullptr) {
    picked.index = rows;
    return picked;
  }
  picked.height = tile_height(count);
  picked.codes = codes;
  picked.scales = scales;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = rows[i] / all.height * all.groups, from_line = rows[i] % all.height;
    const int64_t to = i / picked.height * all.groups, to_line = i % picked.height;
    for (int64_t g = 0; g < all.groups; ++g) {
      const int64_t source = (from + g) * all.height + from_line;
      const int64_t target = (to + g) * picked.height + to_line;
      memcpy(codes + target * kGroup, all.codes + source * kGroup, kGroup);
      scales[target] = all.scales[source];
    }
  }
  return picked;
}

// out += (sum over choices, in their order, of weight * output) + shared
void combine(const MoeCall& call, const Routing& routing, const float* outputs,
             const float* shared) {
  const int64_t hidden = call.down.rows;
  // Columns [i, i + 8) of row t, or as many of them as `load` takes.
  const auto total_of = [&](int64_t t, int64_t i, const auto& load) {
    const int64_t* places = routing.place_of + t * call.top_k;
    F32x8 total = F32x8::zero();
    for (int64_t k = 0; k < call.top_k; ++k) {
      const F32x8 weight = F32x8::broadcast(call.weights[t * call.weights_stride + k]);
      total = fma(weight, load(outputs + places[k] * hidden + i), total);
    }
    if (shared != nullptr) total = total + load(shared + t * hidden + i);
    return load(call.out + t * call.out_stride + i) + total;
  };
  parallel_for(divide_up(call.x.count, kRowTile), [&](int64_t chunk) {
    const int64_t end = smaller(call.x.count, (chunk + 1) * kRowTile);
    for (int64_t t = chunk * kRowTile; t < end; ++t) {
      float* out = call.out + t * call.out_stride;
      int64_t i = 0;
      for (; i + 8 <= hidden; i += 8) {
        total_of(t, i, [](const float* p) { return F32x8::load(p); }).store(out + i);
      }
      if (i < hidden) {
        const int64_t left = hidden - i;
        const auto load = [left](const float* p) { return load_first(p, left); };
        store_first(total_of(t, i, load), out + i, left);
      }
    }
  });
}

}  // namespace

void moe(const MoeCall& call) {
  if (call.x.count == 0) return;
  const Routing routing = sort_by_expert(call);
  const int64_t choices = call.x.count * call.top_k, num_experts = call.gate_up.experts;
  const int64_t hidden = call.down.rows;
  const Activations all = prepare(call.x, {}, call.gate_up);
  const bool has_shared = call.shared_gate_up != nullptr;
  const int64_t outputs_rows = choices + (has_shared ? call.x.count : 0);
  float* outputs = scratch<float>(Scratch::expert_rows, outputs_rows * hidden);
  // Row tiles are padded: at most kTallTile - 1 rows more for every expert that has rows.
  const int64_t places =
      (choices + (kTallTile - 1) * smaller(choices, num_experts)) * all.groups;
  int8_t* codes = scratch<int8_t>(Scratch::expert_codes, places * kGroup);
  A8Scale* scales = scratch<A8Scale>(Scratch::expert_scales, places);
  auto* segments = scratch<Segment>(Scratch::segments, smaller(choices, num_experts) + 1);

  int64_t count = 0, macs = 0;
  HiddenMemory need;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t first = routing.starts[e], rows = routing.starts[e + 1] - first;
    if (rows == 0) continue;
    Segment& s = segments[count++];
    s = Segment{};
    s.gate_up = &call.gate_up;
    s.down = &call.down;
    s.expert = e;
    s.input = gather(all, routing.rows + first, rows, codes, scales);
    s.out = {outputs + first * hidden, hidden};
    if (all.codes != nullptr) {
      const int64_t taken = tiled_rows(rows) * all.groups;
      codes += taken * kGroup;
      scales += taken;
    }
    need.add(call.down, rows);
    macs += macs_of(call.gate_up, rows);
  }
  if (has_shared) {
    Segment& s = segments[count++];
    s = Segment{};
    s.gate_up = call.shared_gate_up;
    s.down = call.shared_down;
    // The codes of `all` serve when both take A8; float formats take the rows.
    const bool same = takes_a8(s.gate_up->format) == takes_a8(call.gate_up.format);
    s.input = same ? all : prepare(call.x, {}, *s.gate_up);
    s.out = {outputs + choices * hidden, hidden};
    need.add(*s.down, call.x.count);
    macs += macs_of(*s.gate_up, call.x.count);
  }
  HiddenPieces pieces(need);
  for (int64_t i = 0; i < count; ++i) pieces.assign(segments[i]);
  run_hidden(segments, count, macs);
  run_down(segments, count, macs / 2);
  combine(call, routing, outputs, has_shared ? outputs + choices * hidden : nullptr);
}

}  // namespace tribody::TRIBODY_ISA
