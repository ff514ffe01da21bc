// The packed number formats: what the bytes of a weight matrix are, and where they lie.
// precision/*.py define the values; precision/layout.py writes and reads these same bytes in NumPy,
// precision/formats.py mirrors the sizes, and tests compare all three.
//
// A matrix (N, K) is cut into panels of rows.  Inside a panel rows are interleaved along K, so that
// one vector load feeds as many output elements as there are lanes, and each lane accumulates its
// own row in the order of K.  A panel is a header (most formats have none), then tiles along K.
// N is padded to whole panels and K to whole tiles with zeros.  Experts of a stack follow each
// other; the whole begins at a multiple of kAlignment.  Numbers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tribody {

enum class WeightFormat : int {
  float32,
  bfloat16,
  float16,
  w8g32,
  w6g32,
  w5m32,
  w4m32,
  fp4g32,
  fp8b,
};

// The group of one scale along K, of all formats whose codes meet A8 activations.
inline constexpr int kGroup = 32;

// Steps of a group: four columns of all eight rows are 32 bytes, one AVX2 register, which is what a
// four-byte dot product (vpdpbusd, or vpmaddubsw + vpmaddwd) takes.
inline constexpr int kSteps = kGroup / 4;

// Rows of an integer panel: eight int32 lanes fill one AVX2 register.
inline constexpr int kPanelRowsInt = 8;

// Rows of a float panel: sixteen lanes are one AVX-512 register, or two of AVX2.
inline constexpr int kPanelRowsFloat = 16;

// Columns of one scale of fp8b, as in DeepSeek's checkpoints.
inline constexpr int kFp8Columns = 128;

// Of the first byte of a matrix: a cache line, and the widest vector.
inline constexpr int64_t kAlignment = 64;

// ---- tiles: 8 rows x 32 columns unless they say otherwise -----------------------------------------
//
// Column k of a group is byte i = k % 4 of step s = k / 4.  Formats of fewer bits are planes of the
// same steps, several to a byte, so that a step is recovered by a shift and a mask of whole vectors.

// Four bits of eight steps: step 2 v in the low half of nibbles[v][row][i], step 2 v + 1 above it.
using NibblePlane = uint8_t[kSteps / 2][kPanelRowsInt][4];

// value = code * scale, code in [-127, 127]; 8.5 bits per weight.
struct W8G32Tile {
  int8_t codes[kSteps][kPanelRowsInt][4];
  uint16_t scales[kPanelRowsInt];  // float16
};
static_assert(sizeof(W8G32Tile) == 272 && alignof(W8G32Tile) == 2);

// value = (code - 32) * scale, code in [0, 63]; 6.5 bits per weight.
//   pairs[v][row][i] holds bits 4 and 5 of steps 4 v to 4 v + 3, two bits each from the lowest up.
struct W6G32Tile {
  NibblePlane nibbles;
  uint8_t pairs[kSteps / 4][kPanelRowsInt][4];
  uint16_t scales[kPanelRowsInt];  // float16
};
static_assert(sizeof(W6G32Tile) == 208 && alignof(W6G32Tile) == 2);

// The header of a panel of the formats with a minimum: float16, one for each row.
struct MinimumUnits {
  uint16_t scale[kPanelRowsInt];
  uint16_t minimum[kPanelRowsInt];
};
static_assert(sizeof(MinimumUnits) == 32 && alignof(MinimumUnits) == 2);

// value = (unit.scale / 256 * scale) * code - unit.minimum / 256 * minimum, code in [0, 31];
// 5.5 bits per weight and 32 bytes for each panel.
//   bits[row][i] holds bit 4 of all eight steps: step s is bit s.
struct W5M32Tile {
  NibblePlane nibbles;
  uint8_t bits[kPanelRowsInt][4];
  uint8_t scales[kPanelRowsInt];
  uint8_t minima[kPanelRowsInt];
};
static_assert(sizeof(W5M32Tile) == 176 && alignof(W5M32Tile) == 1);

// The same with codes in [0, 15]; 4.5 bits per weight and 32 bytes for each panel.
struct W4M32Tile {
  NibblePlane nibbles;
  uint8_t scales[kPanelRowsInt];
  uint8_t minima[kPanelRowsInt];
};
static_assert(sizeof(W4M32Tile) == 144 && alignof(W4M32Tile) == 1);

// value = e2m1(code) * 2^(scale - 127): MXFP4; 4.25 bits per weight.
struct Fp4G32Tile {
  NibblePlane nibbles;
  uint8_t scales[kPanelRowsInt];  // UE8M0; 255 is NaN
};
static_assert(sizeof(Fp4G32Tile) == 136 && alignof(Fp4G32Tile) == 1);

// 16 rows x 128 columns: value = e4m3(code) * scale; 8.25 bits per weight.
struct Fp8BTile {
  uint8_t codes[kFp8Columns][kPanelRowsFloat];
  float scales[kPanelRowsFloat];
};
static_assert(sizeof(Fp8BTile) == 2112 && alignof(Fp8BTile) == 4);

// What goes with the 32 codes of an A8 group.
struct A8Scale {
  float scale;
  int32_t start;  // -128 * the sum of the codes: what unsigned weight codes begin at
};

// ---- sizes ----------------------------------------------------------------------------------------

struct FormatLayout {
  const char* name;  // what Python calls it
  int panel_rows, tile_columns;
  int64_t tile_bytes, header_bytes;
  bool takes_a8;  // its activations are A8; the others take float32
};

// In the order of WeightFormat.
inline constexpr FormatLayout kLayouts[] = {
    {"float32", kPanelRowsFloat, 1, kPanelRowsFloat * 4, 0, false},
    {"bfloat16", kPanelRowsFloat, 1, kPanelRowsFloat * 2, 0, false},
    {"float16", kPanelRowsFloat, 1, kPanelRowsFloat * 2, 0, false},
    {"w8g32", kPanelRowsInt, kGroup, sizeof(W8G32Tile), 0, true},
    {"w6g32", kPanelRowsInt, kGroup, sizeof(W6G32Tile), 0, true},
    {"w5m32", kPanelRowsInt, kGroup, sizeof(W5M32Tile), sizeof(MinimumUnits), true},
    {"w4m32", kPanelRowsInt, kGroup, sizeof(W4M32Tile), sizeof(MinimumUnits), true},
    {"fp4g32", kPanelRowsInt, kGroup, sizeof(Fp4G32Tile), 0, true},
    {"fp8b", kPanelRowsFloat, kFp8Columns, sizeof(Fp8BTile), 0, false},
};
inline constexpr int kNumFormats = sizeof kLayouts / sizeof kLayouts[0];

inline constexpr const FormatLayout& layout_of(WeightFormat format) {
  return kLayouts[static_cast<int>(format)];
}

inline constexpr int panel_rows(WeightFormat format) { return layout_of(format).panel_rows; }

inline constexpr bool takes_a8(WeightFormat format) { return layout_of(format).takes_a8; }

// Bytes of one panel of K columns.
inline constexpr int64_t panel_bytes(WeightFormat format, int64_t columns) {
  const FormatLayout& layout = layout_of(format);
  const int64_t tiles = (columns + layout.tile_columns - 1) / layout.tile_columns;
  return layout.header_bytes + tiles * layout.tile_bytes;
}

}  // namespace tribody
