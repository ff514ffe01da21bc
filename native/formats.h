// The packed number formats: what the bytes of a weight matrix are.  precision/quantize.py defines
// the values; this file only their places.  precision/formats.py mirrors the sizes, and a test
// compares the two.
//
// A matrix (N, K) is cut into panels of rows.  Inside a panel rows are interleaved along K, so that
// one vector load feeds as many output elements as there are lanes, and each lane accumulates its
// own row in the order of K.  N is padded to whole panels with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tribody {

enum class WeightFormat : int { float32, bfloat16, float16, w8g32 };

// The group of one scale along K.
inline constexpr int kGroup = 32;

// Rows of a w8g32 panel: eight int32 lanes fill one AVX2 register.
inline constexpr int kPanelRowsW8 = 8;

// Rows of a float panel: sixteen lanes are one AVX-512 register, or two of AVX2.
inline constexpr int kPanelRowsFloat = 16;

// 8 rows x 32 columns of a w8g32 panel; 8.5 bits per weight.
//   codes[s][r][i] is row r, column 4 s + i: one 32-byte load holds four columns of all 8 rows,
//   which is what a four-byte dot product (vpdpbusd, or vpmaddubsw + vpmaddwd) takes.
struct W8G32Tile {
  int8_t codes[kGroup / 4][kPanelRowsW8][4];
  uint16_t scales[kPanelRowsW8];  // float16
};
static_assert(sizeof(W8G32Tile) == 272, "precision/formats.py states 8.5 bits per weight");
static_assert(alignof(W8G32Tile) == 2);

// What goes with the 32 codes of an A8 group.
struct A8Scale {
  float scale;
  int32_t start;  // -128 * the sum of the codes: see simd_int8.h
};

inline constexpr int panel_rows(WeightFormat format) {
  return format == WeightFormat::w8g32 ? kPanelRowsW8 : kPanelRowsFloat;
}

inline constexpr int bytes_per_float(WeightFormat format) {
  return format == WeightFormat::float32 ? 4 : 2;
}

// Bytes of one panel of K columns.
inline constexpr int64_t panel_bytes(WeightFormat format, int64_t columns) {
  if (format == WeightFormat::w8g32) {
    return (columns + kGroup - 1) / kGroup * static_cast<int64_t>(sizeof(W8G32Tile));
  }
  return columns * kPanelRowsFloat * bytes_per_float(format);
}

}  // namespace tribody
