// One row's part of a tile: its codes to their places and back.  See formats.h.
#pragma once

#include <string.h>

#include "formats.h"
#include "simd.h"

namespace tribody::TRIBODY_ISA {

// ---- writing: 32 codes of one row into a tile whose planes are zero there --------------------------

TRIBODY_INLINE void put_nibbles(const uint8_t* codes, NibblePlane& plane, int64_t row) {
  for (int v = 0; v < kSteps / 2; ++v) {
    for (int i = 0; i < 4; ++i) {
      const int low = codes[8 * v + i] & 15, high = codes[8 * v + 4 + i] & 15;
      plane[v][row][i] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

TRIBODY_INLINE void put_codes(const int8_t* codes, W8G32Tile* tile, int64_t row) {
  for (int s = 0; s < kSteps; ++s) memcpy(tile->codes[s][row], codes + 4 * s, 4);
}

TRIBODY_INLINE void put_codes(const uint8_t* codes, W6G32Tile* tile, int64_t row) {
  put_nibbles(codes, tile->nibbles, row);
  for (int s = 0; s < kSteps; ++s) {
    for (int i = 0; i < 4; ++i) {
      tile->pairs[s / 4][row][i] |= static_cast<uint8_t>(codes[4 * s + i] >> 4 << s % 4 * 2);
    }
  }
}

TRIBODY_INLINE void put_codes(const uint8_t* codes, W5M32Tile* tile, int64_t row) {
  put_nibbles(codes, tile->nibbles, row);
  for (int s = 0; s < kSteps; ++s) {
    for (int i = 0; i < 4; ++i) {
      tile->bits[row][i] |= static_cast<uint8_t>(codes[4 * s + i] >> 4 << s);
    }
  }
}

TRIBODY_INLINE void put_codes(const uint8_t* codes, W4M32Tile* tile, int64_t row) {
  put_nibbles(codes, tile->nibbles, row);
}

TRIBODY_INLINE void put_codes(const uint8_t* codes, Fp4G32Tile* tile, int64_t row) {
  put_nibbles(codes, tile->nibbles, row);
}

// ---- reading: the code of one row and column k of the tile ----------------------------------------

TRIBODY_INLINE int nibble_at(const NibblePlane& plane, int64_t row, int64_t k) {
  return plane[k / 8][row][k % 4] >> k / 4 % 2 * 4 & 15;
}

TRIBODY_INLINE int code_at(const W8G32Tile& tile, int64_t row, int64_t k) {
  return tile.codes[k / 4][row][k % 4];
}

TRIBODY_INLINE int code_at(const W6G32Tile& tile, int64_t row, int64_t k) {
  const int pair = tile.pairs[k / 16][row][k % 4] >> k / 4 % 4 * 2 & 3;
  return nibble_at(tile.nibbles, row, k) | pair << 4;
}

TRIBODY_INLINE int code_at(const W5M32Tile& tile, int64_t row, int64_t k) {
  const int bit = tile.bits[row][k % 4] >> k / 4 & 1;
  return nibble_at(tile.nibbles, row, k) | bit << 4;
}

TRIBODY_INLINE int code_at(const W4M32Tile& tile, int64_t row, int64_t k) {
  return nibble_at(tile.nibbles, row, k);
}

TRIBODY_INLINE int code_at(const Fp4G32Tile& tile, int64_t row, int64_t k) {
  return nibble_at(tile.nibbles, row, k);
}

}  // namespace tribody::TRIBODY_ISA
