// Decoding rows of a table.
#include "pack.h"
#include "simd.h"
#include "tiles.h"

namespace tribody::TRIBODY_ISA {
namespace {

constexpr float kE2M1Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// One lane of a panel of columns that follow each other, as float16, bfloat16 or float32.
template <class Element, class Convert>
void decode_columns(const uint8_t* panel, int64_t lane, int64_t columns, float* out,
                    Convert convert) {
  const auto* values = reinterpret_cast<const Element*>(panel);
  for (int64_t k = 0; k < columns; ++k) out[k] = convert(values[k * kPanelRowsFloat + lane]);
}

// One lane of a panel of tiles; value(tile, code) is what a code stands for.
template <class Tile, class Value>
void decode_groups(const uint8_t* tiles, int64_t lane, int64_t columns, float* out, Value value) {
  const auto* tile = reinterpret_cast<const Tile*>(tiles);
  for (int64_t k = 0; k < columns; ++k) {
    const Tile& own = tile[k / kGroup];
    out[k] = value(own, code_at(own, lane, k % kGroup));
  }
}

template <class Tile>
void decode_minimum(const uint8_t* panel, int64_t lane, int64_t columns, float* out) {
  const auto* units = reinterpret_cast<const MinimumUnits*>(panel);
  const float scale_step = half_to_float(units->scale[lane]) * (1.0f / 256);
  const float minimum_step = half_to_float(units->minimum[lane]) * (1.0f / 256);
  decode_groups<Tile>(panel + sizeof(MinimumUnits), lane, columns, out,
                      [=](const Tile& tile, int code) {
                        const float scale = scale_step * static_cast<float>(tile.scales[lane]);
                        const float minimum = minimum_step * static_cast<float>(tile.minima[lane]);
                        return scale * static_cast<float>(code) - minimum;
                      });
}

float power_of_two(uint8_t scale) {
  if (scale == 255) return bits_to_float(0x7fc00000u);  // NaN
  return bits_to_float(scale == 0 ? 0x00400000u : uint32_t{scale} << 23);
}

void decode_fp8(const uint8_t* panel, int64_t lane, int64_t columns, float* out) {
  const auto* tile = reinterpret_cast<const Fp8BTile*>(panel);
  for (int64_t k = 0; k < columns; ++k) {
    const Fp8BTile& own = tile[k / kFp8Columns];
    const float value = half_to_float(e4m3_to_half(own.codes[k % kFp8Columns][lane])) * 256.0f;
    out[k] = value * own.scales[lane];
  }
}

void decode_row(const MatrixView& table, int64_t row, float* out) {
  const int64_t height = panel_rows(table.format), lane = row % height, columns = table.columns;
  const uint8_t* panel = table.panel(0, row / height);
  switch (table.format) {
    case WeightFormat::float32:
      return decode_columns<float>(panel, lane, columns, out, [](float x) { return x; });
    case WeightFormat::bfloat16:
      return decode_columns<uint16_t>(panel, lane, columns, out,
                                      [](uint16_t bits) { return bfloat16_to_float(bits); });
    case WeightFormat::float16:
      return decode_columns<uint16_t>(panel, lane, columns, out,
                                      [](uint16_t bits) { return half_to_float(bits); });
    case WeightFormat::w8g32:
      return decode_groups<W8G32Tile>(panel, lane, columns, out, [=](const auto& tile, int code) {
        return static_cast<float>(code) * half_to_float(tile.scales[lane]);
      });
    case WeightFormat::w6g32:
      return decode_groups<W6G32Tile>(panel, lane, columns, out, [=](const auto& tile, int code) {
        return static_cast<float>(code - 32) * half_to_float(tile.scales[lane]);
      });
    case WeightFormat::w5m32: return decode_minimum<W5M32Tile>(panel, lane, columns, out);
    case WeightFormat::w4m32: return decode_minimum<W4M32Tile>(panel, lane, columns, out);
    case WeightFormat::fp4g32:
      return decode_groups<Fp4G32Tile>(panel, lane, columns, out, [=](const auto& tile, int code) {
        return kE2M1Values[code] * power_of_two(tile.scales[lane]);
      });
    case WeightFormat::fp8b: return decode_fp8(panel, lane, columns, out);
  }
}

}  // namespace

void embed(const EmbedCall& call) {
  constexpr int64_t kRows = 8;  // of 576 floats take about 3 us, ten times the hand-over
  parallel_for((call.count + kRows - 1) / kRows, [&](int64_t chunk) {
    for (int64_t i = chunk * kRows; i < call.count && i < (chunk + 1) * kRows; ++i) {
      decode_row(call.table, call.ids[i], call.out + i * call.stride);
    }
  });
}

}  // namespace tribody::TRIBODY_ISA
