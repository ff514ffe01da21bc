// y = x W^T over packed panels: GEMV and GEMM are one loop, with one to eight rows per tile.  Here is
// what surrounds the tiles (linear_int.cc, linear_float.cc): norm, A8, and the cut into chunks.
#include "linear.h"

#include "norm.h"
#include "simd_int8.h"

namespace tribody::TRIBODY_ISA {
namespace {

TRIBODY_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TRIBODY_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
TRIBODY_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Below this a group's inverse scale overflows float32; it is stored as zeros (quantize.quantize_a8).
constexpr float kSmallestMagnitude = 1e-36f;

// 32 floats to bytes and a scale.  A group with Inf or NaN keeps that in its scale.
TRIBODY_INLINE void quantize_group(const float* x, int8_t* codes, A8Scale* to) {
  const float most = largest_magnitude(x);
  if (most > kSmallestMagnitude && is_finite(most)) {
    to->scale = most / 127.0f;
    to->start = -128 * round_to_bytes(x, 127.0f / most, codes);
  } else {
    *to = {is_finite(most) ? 0.0f : most, 0};
    memset(codes, 0, kGroup);
  }
}

}  // namespace

Activations activations_for(const Rows& x, const MatrixView& w, Scratch codes, Scratch scales) {
  Activations to;
  to.count = x.count;
  to.columns = w.columns;
  to.values = x.data;
  to.stride = x.stride;
  if (takes_a8(w.format)) {
    to.groups = num_groups(w.columns);
    to.height = tile_height(x.count);
    const int64_t places = tiled_rows(x.count) * to.groups;
    to.codes = scratch<int8_t>(codes, places * kGroup);
    to.scales = scratch<A8Scale>(scales, places);
  }
  return to;
}

void quantize_groups(const float* values, int64_t row, int64_t first_group, int64_t end_group,
                     const Activations& to) {
  const int64_t tile = row / to.height * to.groups, line = row % to.height;
  for (int64_t g = first_group; g < end_group; ++g) {
    const int64_t place = (tile + g) * to.height + line;
    const float* group = values + (g - first_group) * kGroup;
    const int64_t left = to.columns - g * kGroup;
    float padded[kGroup];
    if (left < kGroup) {
      memset(padded, 0, sizeof padded);
      memcpy(padded, group, static_cast<size_t>(left) * sizeof(float));
      group = padded;
    }
    quantize_group(group, to.codes + place * kGroup, to.scales + place);
  }
}

void quantize_rows(const Rows& x, int64_t first, int64_t end, const Activations& to) {
  if (to.codes == nullptr) return;
  for (int64_t row = first; row < end; ++row) {
    quantize_groups(x.data + row * x.stride, row, 0, to.groups, to);
  }
}

Activations prepare(const Rows& x, const Norm& norm, const MatrixView& w) {
  Rows source = x;
  if (norm.weight != nullptr) {
    float* normalized = scratch<float>(Scratch::normalized, x.count * w.columns);
    source = {normalized, w.columns, x.count};
  }
  const Activations to = activations_for(source, w, Scratch::codes, Scratch::scales);
  if (norm.weight == nullptr && to.codes == nullptr) return to;
  // A row of 576 takes about 0.3 us, so eight are worth the hand-over to another thread.
  parallel_for(divide_up(x.count, kRowTile), [&](int64_t chunk) {
    const int64_t first = chunk * kRowTile, end = smaller(x.count, first + kRowTile);
    if (norm.weight != nullptr) {
      for (int64_t row = first; row < end; ++row) {
        normalize_row(x.data + row * x.stride, norm, w.columns,
                      const_cast<float*>(source.data) + row * source.stride);
      }
    }
    quantize_rows(source, first, end, to);
  });
  return to;
}

void multiply(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
              const Output& out) {
  if (takes_a8(w.format)) {
    multiply_int(x, w, expert, span, out);
  } else {
    multiply_float(x, w, expert, span, out);
  }
}

int64_t units_per_chunk(int64_t total_macs, int64_t unit_macs) {
  const int64_t target = larger(
      tunables.smallest_chunk_macs, total_macs / (tunables.chunks_per_thread * num_threads()));
  return larger(1, target / larger(1, unit_macs));
}

void linear(const LinearCall& call) {
  const MatrixView& w = call.weights;
  if (call.x.count == 0 || w.rows == 0) return;
  const Activations x = prepare(call.x, call.norm, w);
  const int64_t count = call.x.count, rows = smaller(count, tunables.rows_per_chunk);
  const int64_t num_panels = w.num_panels(), row_chunks = divide_up(count, rows);
  // Panels are taken two at a time, but for a router's, which has no more than two.
  const int64_t together = num_panels <= 2 ? 1 : 2;
  const int64_t unit = together * panel_rows(w.format) * rows * w.columns;
  const int64_t per_chunk = together * units_per_chunk(count * w.rows * w.columns, unit);
  const int64_t panel_chunks = divide_up(num_panels, per_chunk);
  if (row_chunks == 1) {
    begin_reading({w.data, nullptr, per_chunk * w.bytes_per_panel(), panel_chunks});
  }
  parallel_for(panel_chunks * row_chunks, [&](int64_t chunk) {
    const int64_t row = chunk % row_chunks * rows, panel = chunk / row_chunks * per_chunk;
    const Span span{row, smaller(count, row + rows), panel, smaller(num_panels, panel + per_chunk)};
    multiply(x, w, 0, span, call.out);
  });
}

}  // namespace tribody::TRIBODY_ISA
