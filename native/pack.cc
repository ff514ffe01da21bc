// Encoding weights into panels.  The codes are those of the plain quantizers of precision/*.py and
// the bytes those of precision/layout.py, bit for bit; tests/ops/test_pack.py holds them together.
#include "pack.h"

#include "simd_int8.h"
#include "tiles.h"

namespace tribody::TRIBODY_ISA {
namespace {

// Group g of a row of K floats; `padded` is where the last one is filled up with zeros.
const float* group_of(const float* row, int64_t columns, int64_t g, float (&padded)[kGroup]) {
  const int64_t left = columns - g * kGroup;
  if (left >= kGroup) return row + g * kGroup;
  memset(padded, 0, sizeof padded);
  memcpy(padded, row + g * kGroup, static_cast<size_t>(left) * sizeof(float));
  return padded;
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

// ---- one scale for each group: w8g32, w6g32, fp4g32 -------------------------------------------------

// scale = max|w| / levels rounded to float16; codes = round-half-even(w / scale), limited.  A group
// whose scale is zero or not finite has zeros.
TRIBODY_INLINE uint16_t encode_signed(const float* x, int levels, int8_t* codes) {
  const float most = largest_magnitude(x);
  const uint16_t bits = float_to_half(most / static_cast<float>(levels));
  const float scale = half_to_float(bits);
  memset(codes, 0, kGroup);
  if (scale > 0.0f && is_finite(most)) (void)round_to_bytes(x, 1.0f / scale, codes);
  return bits;
}

TRIBODY_INLINE void encode_group(const float* x, W8G32Tile* tile, int64_t row) {
  alignas(32) int8_t codes[kGroup];
  tile->scales[row] = encode_signed(x, 127, codes);
  put_codes(codes, tile, row);
}

TRIBODY_INLINE void encode_group(const float* x, W6G32Tile* tile, int64_t row) {
  alignas(32) int8_t codes[kGroup];
  uint8_t from_zero[kGroup];
  tile->scales[row] = encode_signed(x, 31, codes);
  for (int k = 0; k < kGroup; ++k) {
    const int code = codes[k] > 31 ? 31 : codes[k] < -31 ? -31 : codes[k];
    from_zero[k] = static_cast<uint8_t>(code + 32);
  }
  put_codes(from_zero, tile, row);
}

// The nearest of 0, 1/2, 1, 3/2, 2, 3, 4, 6, ties to the even code, and the sign above it.
TRIBODY_INLINE uint8_t to_e2m1(float value) {
  const float magnitude = __builtin_fabsf(value);
  const int code = (magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) +
                   (magnitude >= 1.75f) + (magnitude > 2.5f) + (magnitude >= 3.5f) +
                   (magnitude > 5.0f);
  return static_cast<uint8_t>(code | float_to_bits(value) >> 31 << 3);
}

// The exponent of the largest magnitude less 2, as OCP MX 1.0 has it; 255 when that is not finite.
TRIBODY_INLINE void encode_group(const float* x, Fp4G32Tile* tile, int64_t row) {
  const float most = largest_magnitude(x);
  const auto exponent = static_cast<int>(float_to_bits(most) >> 23);
  uint8_t codes[kGroup] = {};
  tile->scales[row] = 255;
  if (is_finite(most)) {
    const int scale = exponent < 2 ? 0 : exponent - 2;
    const float inverse = bits_to_float(static_cast<uint32_t>(254 - scale) << 23);
    for (int k = 0; k < kGroup; ++k) codes[k] = to_e2m1(x[k] * inverse);
    tile->scales[row] = static_cast<uint8_t>(scale);
  }
  put_codes(codes, tile, row);
}

// rows: the first of `valid` rows of K floats.
template <class Tile>
void encode_panel_groups(const float* rows, int64_t valid, int64_t columns, uint8_t* to) {
  auto* tile = reinterpret_cast<Tile*>(to);
  const int64_t groups = num_groups(columns);
  memset(tile, 0, static_cast<size_t>(groups) * sizeof(Tile));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t row = 0; row < valid; ++row) {
      float padded[kGroup];
      encode_group(group_of(rows + row * columns, columns, g, padded), tile + g, row);
    }
  }
}

// ---- a scale and a minimum: w5m32, w4m32 ------------------------------------------------------------

struct Range {
  float scale, minimum;  // of one code; what the lowest weight lies below zero
};

TRIBODY_INLINE Range range_of(const float* x, int levels) {
  F32x8 low = F32x8::zero(), high = F32x8::load(x);
  for (int k = 0; k < kGroup; k += 8) {
    low = min(low, F32x8::load(x + k));
    high = max(high, F32x8::load(x + k));
  }
  const float depth = largest(F32x8::zero() - low);
  return {(largest(high) + depth) / static_cast<float>(levels), depth};
}

// value in steps, rounded half to even and limited to a byte; 0 without a step.
TRIBODY_INLINE uint8_t to_byte(float value, float step) {
  if (!(step > 0.0f)) return 0;
  const float count = __builtin_nearbyintf(value / step);
  return static_cast<uint8_t>(count > 255.0f ? 255.0f : count);
}

// The units of one row; NaN, when a weight or a unit is not finite.
struct Units {
  uint16_t scale, minimum;
};

Units units_of(const float* row, int64_t columns, int levels) {
  float scale = 0.0f, minimum = 0.0f;
  bool finite = true;
  for (int64_t g = 0; g < num_groups(columns); ++g) {
    float padded[kGroup];
    const float* x = group_of(row, columns, g, padded);
    finite = finite && is_finite(largest_magnitude(x));
    const Range range = range_of(x, levels);
    scale = range.scale > scale ? range.scale : scale;
    minimum = range.minimum > minimum ? range.minimum : minimum;
  }
  const Units units{float_to_half(scale / 255.0f * 256.0f),
                    float_to_half(minimum / 255.0f * 256.0f)};
  constexpr uint16_t kNan = 0x7e00;
  finite = finite && is_finite(half_to_float(units.scale)) &&
           is_finite(half_to_float(units.minimum));
  return finite ? units : Units{kNan, kNan};
}

template <class Tile>
TRIBODY_INLINE void encode_minimum_group(const float* x, int levels, float scale_step,
                                         float minimum_step, Tile* tile, int64_t row) {
  const Range range = range_of(x, levels);
  tile->scales[row] = to_byte(range.scale, scale_step);
  tile->minima[row] = to_byte(range.minimum, minimum_step);
  const float scale = static_cast<float>(tile->scales[row]) * scale_step;
  const float minimum = static_cast<float>(tile->minima[row]) * minimum_step;
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f, most = static_cast<float>(levels);
  uint8_t codes[kGroup];
  for (int k = 0; k < kGroup; ++k) {
    const float code = __builtin_nearbyintf((x[k] + minimum) * inverse);
    codes[k] = static_cast<uint8_t>(code > most ? most : code < 0.0f ? 0.0f : code);
  }
  put_codes(codes, tile, row);
}

template <class Tile>
void encode_panel_minimum(const float* rows, int64_t valid, int64_t columns, int levels,
                          uint8_t* to) {
  auto* units = reinterpret_cast<MinimumUnits*>(to);
  auto* tile = reinterpret_cast<Tile*>(to + sizeof(MinimumUnits));
  const int64_t groups = num_groups(columns);
  memset(to, 0, sizeof(MinimumUnits) + static_cast<size_t>(groups) * sizeof(Tile));
  for (int64_t row = 0; row < valid; ++row) {
    const float* x = rows + row * columns;
    const Units own = units_of(x, columns, levels);
    units->scale[row] = own.scale;
    units->minimum[row] = own.minimum;
    const float scale_step = half_to_float(own.scale) * (1.0f / 256);
    const float minimum_step = half_to_float(own.minimum) * (1.0f / 256);
    if (!is_finite(scale_step)) continue;
    for (int64_t g = 0; g < groups; ++g) {
      float padded[kGroup];
      encode_minimum_group(group_of(x, columns, g, padded), levels, scale_step, minimum_step,
                           tile + g, row);
    }
  }
}

// ---- fp8b -------------------------------------------------------------------------------------------

// The nearest E4M3 code, ties to even; magnitudes above 448 become 448.  `value` is finite.
TRIBODY_INLINE uint8_t to_e4m3(float value) {
  const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffffu;
  uint32_t code;
  if (magnitude < 0x3c800000u) {  // below 2^-6, the smallest normal
    code = static_cast<uint32_t>(__builtin_nearbyintf(bits_to_float(magnitude) * 512.0f));
  } else {  // rounded at bit 20; the exponent's bias goes from 127 to 7
    code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
  }
  return static_cast<uint8_t>((code < 0x7e ? code : 0x7e) | (bits >> 31 << 7));
}

void encode_panel_fp8(const float* rows, int64_t valid, int64_t columns, uint8_t* to) {
  auto* tile = reinterpret_cast<Fp8BTile*>(to);
  for (int64_t k0 = 0; k0 < columns; k0 += kFp8Columns, ++tile) {
    const int64_t count = columns - k0 < kFp8Columns ? columns - k0 : kFp8Columns;
    memset(tile, 0, sizeof *tile);
    for (int64_t row = 0; row < valid; ++row) {
      const float* x = rows + row * columns + k0;
      uint32_t most = 0;  // as integers, which puts Inf and NaN on top
      for (int64_t k = 0; k < count; ++k) {
        const uint32_t magnitude = float_to_bits(x[k]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
      }
      const float scale = bits_to_float(most) / 448.0f;
      tile->scales[row] = scale;
      if (!(scale > 0.0f) || !is_finite(scale)) continue;
      for (int64_t k = 0; k < count; ++k) tile->codes[k][row] = to_e4m3(x[k] / scale);
    }
  }
}

// ---------------------------------------------------------------------------------------------------

void encode_panel(const float* rows, int64_t valid, const MatrixView& to, uint8_t* panel) {
  const int64_t columns = to.columns;
  switch (to.format) {
    case WeightFormat::float32:
      return encode_panel_float<float>(rows, valid, columns, panel, [](float x) { return x; });
    case WeightFormat::bfloat16:
      return encode_panel_float<uint16_t>(rows, valid, columns, panel,
                                          [](float x) { return float_to_bfloat16(x); });
    case WeightFormat::float16:
      return encode_panel_float<uint16_t>(rows, valid, columns, panel,
                                          [](float x) { return float_to_half(x); });
    case WeightFormat::w8g32: return encode_panel_groups<W8G32Tile>(rows, valid, columns, panel);
    case WeightFormat::w6g32: return encode_panel_groups<W6G32Tile>(rows, valid, columns, panel);
    case WeightFormat::w5m32:
      return encode_panel_minimum<W5M32Tile>(rows, valid, columns, 31, panel);
    case WeightFormat::w4m32:
      return encode_panel_minimum<W4M32Tile>(rows, valid, columns, 15, panel);
    case WeightFormat::fp4g32: return encode_panel_groups<Fp4G32Tile>(rows, valid, columns, panel);
    case WeightFormat::fp8b: return encode_panel_fp8(rows, valid, columns, panel);
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

}  // namespace tribody::TRIBODY_ISA
