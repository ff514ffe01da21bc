// The int8 half of the vector layer on NEON; simd_int8.h says what each operation means.  Sums of
// products are in int_sums_neon.h.
#pragma once

#include "formats.h"
#include "simd.h"

namespace tribody::TRIBODY_ISA {

struct OnePanel {
  using Float = F32x8;
  static constexpr int kPanels = 1;

  struct Bytes {
    uint8x16_t low, high;  // rows 0 to 3, 4 to 7
  };
  struct Int {
    int32x4_t low, high;
  };

  static TRIBODY_INLINE Bytes load(const void* p, int64_t) {
    const auto* from = static_cast<const uint8_t*>(p);
    return {vld1q_u8(from), vld1q_u8(from + 16)};
  }
  static TRIBODY_INLINE Bytes keep(Bytes v, int mask) {
    const uint8x16_t all = vdupq_n_u8(static_cast<uint8_t>(mask));
    return {vandq_u8(v.low, all), vandq_u8(v.high, all)};
  }
  static TRIBODY_INLINE Bytes flip(Bytes v, int mask) {
    const uint8x16_t all = vdupq_n_u8(static_cast<uint8_t>(mask));
    return {veorq_u8(v.low, all), veorq_u8(v.high, all)};
  }
  static TRIBODY_INLINE Bytes join(Bytes a, Bytes b) {
    return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)};
  }
  // With operators: the intrinsics want a constant before loops are unrolled.
  static TRIBODY_INLINE Bytes left(Bytes v, int bits) { return {v.low << bits, v.high << bits}; }
  static TRIBODY_INLINE Bytes right(Bytes v, int bits) { return {v.low >> bits, v.high >> bits}; }
  static TRIBODY_INLINE Bytes look_up(const uint8_t (&table)[16], Bytes v) {
    const uint8x16_t entries = vld1q_u8(table);
    return {vqtbl1q_u8(entries, v.low), vqtbl1q_u8(entries, v.high)};
  }
  static TRIBODY_INLINE Int every(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
  static TRIBODY_INLINE Int shift_signed(Int v, int bits) {
    return {v.low >> bits, v.high >> bits};
  }
  static TRIBODY_INLINE Float to_float(Int sums) {
    return {vcvtq_f32_s32(sums.low), vcvtq_f32_s32(sums.high)};
  }
  static TRIBODY_INLINE Float bytes(const uint8_t* p, int64_t) {
    const uint16x8_t wide = vmovl_u8(vld1_u8(p));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))};
  }
  static TRIBODY_INLINE Float powers(const uint8_t* p, int64_t) {
    const uint16x8_t wide = vmovl_u8(vld1_u8(p));
    const uint32x4_t least = vdupq_n_u32(0x00400000);
    const uint32x4_t low = vshlq_n_u32(vmovl_u16(vget_low_u16(wide)), 23);
    const uint32x4_t high = vshlq_n_u32(vmovl_high_u16(wide), 23);
    return {vreinterpretq_f32_u32(vmaxq_u32(low, least)),
            vreinterpretq_f32_u32(vmaxq_u32(high, least))};
  }
  static TRIBODY_INLINE Float halves(const uint16_t* p, int64_t) { return F32x8::load_half(p); }
  static TRIBODY_INLINE F32x8 part(Float sums, int) { return sums; }
};

TRIBODY_INLINE float largest_magnitude(const float* x) {
  uint32x4_t most = vdupq_n_u32(0);
  for (int i = 0; i < 8; ++i) {
    const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + 4 * i));
    most = vmaxq_u32(most, vandq_u32(bits, vdupq_n_u32(0x7fffffffu)));
  }
  return bits_to_float(vmaxvq_u32(most));
}

TRIBODY_INLINE int32_t round_to_bytes(const float* x, float factor, int8_t* codes) {
  int32_t total = 0;
  for (int i = 0; i < 2; ++i) {
    int16x4_t words[4];
    for (int j = 0; j < 4; ++j) {
      const float32x4_t four = vmulq_n_f32(vld1q_f32(x + 16 * i + 4 * j), factor);
      words[j] = vqmovn_s32(vcvtnq_s32_f32(four));
    }
    const int8x8_t low = vqmovn_s16(vcombine_s16(words[0], words[1]));
    const int8x8_t high = vqmovn_s16(vcombine_s16(words[2], words[3]));
    const int8x16_t bytes = vmaxq_s8(vcombine_s8(low, high), vdupq_n_s8(-127));
    vst1q_s8(codes + 16 * i, bytes);
    total += vaddlvq_s8(bytes);
  }
  return total;
}

}  // namespace tribody::TRIBODY_ISA
