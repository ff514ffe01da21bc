// The vector layer on NEON: F32x8 is two registers of four floats.  simd.h says what each operation
// means; this file only names the instructions.  Armv8.0 has all of them, the conversions of float16
// among them; its arithmetic in float16 (Armv8.2) would round otherwise than other levels and is not
// used.
#pragma once

#include <arm_neon.h>

namespace tribody::TRIBODY_ISA {

TRIBODY_INLINE float half_to_float(uint16_t half) {
  __fp16 value;
  memcpy(&value, &half, 2);
  return static_cast<float>(value);
}

TRIBODY_INLINE uint16_t float_to_half(float value) {
  const __fp16 rounded = static_cast<__fp16>(value);
  uint16_t half;
  memcpy(&half, &rounded, 2);
  return half;
}

struct F32x8 {
  float32x4_t low, high;

  static TRIBODY_INLINE F32x8 broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
  static TRIBODY_INLINE F32x8 zero() { return broadcast(0.0f); }
  static TRIBODY_INLINE F32x8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static TRIBODY_INLINE F32x8 load_half(const uint16_t* p) {
    const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
  }
  static TRIBODY_INLINE F32x8 load_bfloat16(const uint16_t* p) {
    const uint16x8_t bits = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16))};
  }
  TRIBODY_INLINE void store(float* p) const {
    vst1q_f32(p, low);
    vst1q_f32(p + 4, high);
  }
  TRIBODY_INLINE void store_half(uint16_t* p) const {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(low), high)));
  }
};

TRIBODY_INLINE F32x8 operator+(F32x8 a, F32x8 b) {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
TRIBODY_INLINE F32x8 operator-(F32x8 a, F32x8 b) {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
TRIBODY_INLINE F32x8 operator*(F32x8 a, F32x8 b) {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
TRIBODY_INLINE F32x8 operator/(F32x8 a, F32x8 b) {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
TRIBODY_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
// fmax and fmin would return NaN, and +0 before -0, whichever operand it is.
TRIBODY_INLINE F32x8 max(F32x8 a, F32x8 b) {
  return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low),
          vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
}
TRIBODY_INLINE F32x8 min(F32x8 a, F32x8 b) {
  return {vbslq_f32(vcltq_f32(a.low, b.low), a.low, b.low),
          vbslq_f32(vcltq_f32(a.high, b.high), a.high, b.high)};
}

TRIBODY_INLINE float32x4_t power_of_two(float32x4_t n) {
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
TRIBODY_INLINE F32x8 power_of_two(F32x8 n) { return {power_of_two(n.low), power_of_two(n.high)}; }

TRIBODY_INLINE F32x8 round_even(F32x8 a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }

TRIBODY_INLINE float sum(F32x8 a) {
  const float32x4_t four = vaddq_f32(a.low, a.high);
  return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

TRIBODY_INLINE float largest(F32x8 a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }

// Sixteen E4M3 codes as float16, as e4m3_to_half.
TRIBODY_INLINE void e4m3_to_floats(const uint8_t* p, F32x8& first, F32x8& second) {
  const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(p));
  const uint16x8_t kept = vdupq_n_u16(0xbfff);
  const int16x8_t low = vshll_n_s8(vget_low_s8(codes), 7), high = vshll_high_n_s8(codes, 7);
  const float16x8_t a = vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(low), kept));
  const float16x8_t b = vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(high), kept));
  first = {vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a)};
  second = {vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)};
}

}  // namespace tribody::TRIBODY_ISA
