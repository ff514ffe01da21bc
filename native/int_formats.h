// The integer formats as linear_int.cc reads them.  For a format F and a width P (simd_int8.h):
//
//   F::step<P>(tile, next, s)  step s of a tile as unsigned bytes, at most F::kLargest
//   F::start<P>(a8)            what the sum of such bytes times A8 codes begins at, so that it ends
//                              as the sum of the signed codes: -offset * sum(x)
//   F::Scales<P>(panel, next)  .of(tile, next): what a row's sum over the group is worth
//                              .minimum_of(tile, next): 1/128 of what each weight is less, to be
//                              multiplied by A8Scale.start; see kHasMinimum
//
//   F::kOffset                 what the unsigned bytes are more than the signed codes
//   F::kUnpacks                whether a panel that meets many rows is better unpacked before
//
// Offsets are powers of two, so that A8Scale.start, -128 * sum(x), gives each by a shift.
#pragma once

#include "simd_int8.h"

namespace tribody::TRIBODY_ISA {

// ---- scales --------------------------------------------------------------------------------------

template <class P>
struct NoMinimum {
  template <class Tile>
  TRIBODY_INLINE typename P::Float minimum_of(const Tile*, int64_t) const {
    return P::Float::zero();
  }
};

template <class P>
struct HalfScales : NoMinimum<P> {
  HalfScales(const uint8_t*, int64_t) {}
  template <class Tile>
  TRIBODY_INLINE typename P::Float of(const Tile* tile, int64_t next) const {
    return P::halves(tile->scales, next);
  }
};

// Bytes in 256ths of the row's units.  All products but the one with x are exact.
template <class P>
struct ByteScales {
  typename P::Float scale, minimum;  // what a step of the byte is worth; 1/128 of that

  ByteScales(const uint8_t* panel, int64_t next) {
    const auto* units = reinterpret_cast<const MinimumUnits*>(panel);
    scale = P::halves(units->scale, next) * P::Float::broadcast(1.0f / 256);
    minimum = P::halves(units->minimum, next) * P::Float::broadcast(1.0f / (256 * 128));
  }
  template <class Tile>
  TRIBODY_INLINE typename P::Float of(const Tile* tile, int64_t next) const {
    return scale * P::bytes(tile->scales, next);
  }
  template <class Tile>
  TRIBODY_INLINE typename P::Float minimum_of(const Tile* tile, int64_t next) const {
    return minimum * P::bytes(tile->minima, next);
  }
};

// Half of a power of two: the integer codes of fp4g32 are twice its values.
template <class P>
struct PowerScales : NoMinimum<P> {
  PowerScales(const uint8_t*, int64_t) {}
  template <class Tile>
  TRIBODY_INLINE typename P::Float of(const Tile* tile, int64_t next) const {
    return P::powers(tile->scales, next) * P::Float::broadcast(0.5f);
  }
};

// ---- planes --------------------------------------------------------------------------------------

// The low four bits of step s.
template <class P>
TRIBODY_INLINE typename P::Bytes nibbles(const NibblePlane& plane, int64_t next, int s) {
  const auto both = P::load(plane[s / 2], next);
  return P::keep(s % 2 == 0 ? both : P::right(both, 4), 0x0f);
}

// Bits [from, from + n) of v moved to bits [4, 4 + n); the mask is of the latter.
template <class P>
TRIBODY_INLINE typename P::Bytes above_nibble(typename P::Bytes v, int from, int mask) {
  return P::keep(from < 4 ? P::left(v, 4 - from) : P::right(v, from - 4), mask);
}

// ---- formats -------------------------------------------------------------------------------------

// What they share.  Formats whose codes are not signed have a minimum.
template <WeightFormat Format, class TileOfGroup, int Largest, int Offset>
struct IntFormat {
  using Tile = TileOfGroup;
  static constexpr WeightFormat kFormat = Format;
  static constexpr int kLargest = Largest;
  static constexpr int kOffset = Offset;
  static constexpr bool kHasMinimum = Offset == 0;
  static constexpr bool kUnpacks = true;

  template <class P>
  static TRIBODY_INLINE typename P::Int start(const A8Scale& x) {
    if constexpr (Offset == 0) {
      return P::every(0);
    } else if constexpr (Offset == 128) {
      return P::every(x.start);
    } else {
      return P::shift_signed(P::every(x.start), __builtin_ctz(128 / Offset));
    }
  }
};

// As unsigned bytes only where vpdpbusd adds in 32 bits: 2 * 255 * 127 does not fit into 16.
struct W8 : IntFormat<WeightFormat::w8g32, W8G32Tile, 255, 128> {
  template <class P>
  using Scales = HalfScales<P>;
  static constexpr bool kUnpacks = TRIBODY_AVX512;

  template <class P>
  static TRIBODY_INLINE typename P::Bytes step(const Tile* tile, int64_t next, int s) {
    return P::flip(P::load(tile->codes[s], next), 0x80);
  }
};

struct W6 : IntFormat<WeightFormat::w6g32, W6G32Tile, 63, 32> {
  template <class P>
  using Scales = HalfScales<P>;

  template <class P>
  static TRIBODY_INLINE typename P::Bytes step(const Tile* tile, int64_t next, int s) {
    const auto pairs = P::load(tile->pairs[s / 4], next);
    return P::join(nibbles<P>(tile->nibbles, next, s), above_nibble<P>(pairs, s % 4 * 2, 0x30));
  }
};

struct W5 : IntFormat<WeightFormat::w5m32, W5M32Tile, 31, 0> {
  template <class P>
  using Scales = ByteScales<P>;

  template <class P>
  static TRIBODY_INLINE typename P::Bytes step(const Tile* tile, int64_t next, int s) {
    const auto bits = P::load(tile->bits, next);
    return P::join(nibbles<P>(tile->nibbles, next, s), above_nibble<P>(bits, s, 0x10));
  }
};

struct W4 : IntFormat<WeightFormat::w4m32, W4M32Tile, 15, 0> {
  template <class P>
  using Scales = ByteScales<P>;

  template <class P>
  static TRIBODY_INLINE typename P::Bytes step(const Tile* tile, int64_t next, int s) {
    return nibbles<P>(tile->nibbles, next, s);
  }
};

// Twice the value of each E2M1 code, and 16 more to make it unsigned.
inline constexpr uint8_t kE2M1Bytes[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                           16, 15, 14, 13, 12, 10, 8,  4};

struct Fp4 : IntFormat<WeightFormat::fp4g32, Fp4G32Tile, 28, 16> {
  template <class P>
  using Scales = PowerScales<P>;

  template <class P>
  static TRIBODY_INLINE typename P::Bytes step(const Tile* tile, int64_t next, int s) {
    return P::look_up(kE2M1Bytes, nibbles<P>(tile->nibbles, next, s));
  }
};

}  // namespace tribody::TRIBODY_ISA
