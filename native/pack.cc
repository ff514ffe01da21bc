// Encoding weights into panels, and decoding rows of a table.  The values are those of
// precision/quantize.py, bit for bit; tests/ops/test_pack.py holds the two together.
#include "pack.h"

#include "simd_int8.h"

namespace tribody::TRIBODY_ISA {
namespace {

// One row's group: scale = max|w| / 127 rounded to float16, codes = round-half-even(w / scale).
TRIBODY_INLINE void encode_group(const float* x, W8G32Tile* tile, int row) {
  const float most = largest_magnitude(x);
  const uint16_t bits = float_to_half(most / 127.0f);
  const float scale = half_to_float(bits);
  alignas(32) int8_t codes[kGroup] = {};
  if (scale > 0.0f && is_finite(most)) (void)round_to_bytes(x, 1.0f / scale, codes);
  tile->scales[row] = bits;
  for (int step = 0; step < kGroup / 4; ++step) {
    memcpy(tile->codes[step][row], codes + 4 * step, 4);
  }
}

// rows: the first of `valid` rows of K floats.
void encode_panel_int8(const float* rows, int64_t valid, int64_t columns, uint8_t* to) {
  auto* tile = reinterpret_cast<W8G32Tile*>(to);
  for (int64_t k = 0; k < columns; k += kGroup, ++tile) {
    const int64_t left = columns - k;
    if (valid < kPanelRowsW8) memset(tile, 0, sizeof *tile);
    for (int64_t row = 0; row < valid; ++row) {
      const float* group = rows + row * columns + k;
      float padded[kGroup];
      if (left < kGroup) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, group, static_cast<size_t>(left) * sizeof(float));
        group = padded;
      }
      encode_group(group, tile, static_cast<int>(row));
    }
  }
}

// Sixteen columns at a time, so that the sixteen rows read whole cache lines and the panel is
// written in order.
template <class Element, class Convert>
void encode_panel_float(const float* rows, int64_t valid, int64_t columns, uint8_t* to,
                        Convert convert) {
  auto* out = reinterpret_cast<Element*>(to);
  for (int64_t k0 = 0; k0 < columns; k0 += 16) {
    const int64_t end = columns < k0 + 16 ? columns : k0 + 16;
    for (int64_t row = 0; row < kPanelRowsFloat; ++row) {
      const float* from = rows + row * columns;
      for (int64_t k = k0; k < end; ++k) {
        out[k * kPanelRowsFloat + row] = row < valid ? convert(from[k]) : Element{};
      }
    }
  }
}

void encode_panel(const float* rows, int64_t valid, const MatrixView& to, uint8_t* panel) {
  switch (to.format) {
    case WeightFormat::float32:
      return encode_panel_float<float>(rows, valid, to.columns, panel, [](float x) { return x; });
    case WeightFormat::bfloat16:
      return encode_panel_float<uint16_t>(rows, valid, to.columns, panel,
                                          [](float x) { return float_to_bfloat16(x); });
    case WeightFormat::float16:
      return encode_panel_float<uint16_t>(rows, valid, to.columns, panel,
                                          [](float x) { return float_to_half(x); });
    case WeightFormat::w8g32: return encode_panel_int8(rows, valid, to.columns, panel);
  }
}

void decode_row(const MatrixView& table, int64_t row, float* out) {
  const int64_t height = panel_rows(table.format), lane = row % height;
  const uint8_t* panel = table.panel(0, row / height);
  if (table.format == WeightFormat::w8g32) {
    const auto* tile = reinterpret_cast<const W8G32Tile*>(panel);
    for (int64_t k = 0; k < table.columns; ++k) {
      const W8G32Tile& own = tile[k / kGroup];
      out[k] = static_cast<float>(own.codes[k % kGroup / 4][lane][k % 4]) *
               half_to_float(own.scales[lane]);
    }
  } else if (table.format == WeightFormat::float32) {
    const auto* values = reinterpret_cast<const float*>(panel);
    for (int64_t k = 0; k < table.columns; ++k) out[k] = values[k * height + lane];
  } else {
    const auto* bits = reinterpret_cast<const uint16_t*>(panel);
    const bool half = table.format == WeightFormat::float16;
    for (int64_t k = 0; k < table.columns; ++k) {
      const uint16_t b = bits[k * height + lane];
      out[k] = half ? half_to_float(b) : bfloat16_to_float(b);
    }
  }
}

}  // namespace

void pack(const PackCall& call) {
  const MatrixView& to = call.to;
  const int64_t height = panel_rows(to.format), per_expert = to.num_panels();
  parallel_for(to.experts * per_expert, [&](int64_t chunk) {
    const int64_t expert = chunk / per_expert, panel = chunk % per_expert, row = panel * height;
    const int64_t left = to.rows - row;
    encode_panel(call.weights + (expert * to.rows + row) * to.columns, left < height ? left : height,
                 to, call.data + (to.panel(expert, panel) - to.data));
  });
}

void embed(const EmbedCall& call) {
  constexpr int64_t kRows = 8;  // of 576 floats take about 3 us, ten times the hand-over
  parallel_for((call.count + kRows - 1) / kRows, [&](int64_t chunk) {
    for (int64_t i = chunk * kRows; i < call.count && i < (chunk + 1) * kRows; ++i) {
      decode_row(call.table, call.ids[i], call.out + i * call.stride);
    }
  });
}

}  // namespace tribody::TRIBODY_ISA
