// The vector layer: the one place where an instruction set is named.
//
// Kernel files are compiled once per instruction set (isa.h); every type here lives in the namespace
// of its instruction set.  F32x8 is eight floats everywhere: one AVX register, two NEON registers
// (simd_neon.h), or an array that any compiler can vectorise.  Every operation gives the same bits
// on every instruction set (fma is always fused, reductions have one order), so kernels written with
// it are reproducible across machines.  F32x16 is for panels of sixteen rows.
//
// max and min follow maxps and minps: the second operand is returned if either is NaN.
#pragma once

#ifndef TRIBODY_ISA
#error "simd.h is for kernel files only (CMakeLists.txt, TRIBODY_KERNELS)"
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#define TRIBODY_AVX2 1
#else
#define TRIBODY_AVX2 0
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define TRIBODY_AVX512 1
#else
#define TRIBODY_AVX512 0
#endif

#define TRIBODY_INLINE inline __attribute__((always_inline))

// Set for the level and not found by the compiler's macros: `portable` on arm64 has NEON as well.
#ifndef TRIBODY_NEON
#define TRIBODY_NEON 0
#endif
#if TRIBODY_NEON
#include "simd_neon.h"
#endif

namespace tribody::TRIBODY_ISA {

TRIBODY_INLINE float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

TRIBODY_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

TRIBODY_INLINE float bfloat16_to_float(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; NaN stays NaN.  As precision/quantize.py.
TRIBODY_INLINE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if !TRIBODY_NEON

TRIBODY_INLINE float half_to_float(uint16_t half) {
#if TRIBODY_AVX2
  return _cvtsh_ss(half);
#else
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {  // mantissa * 2^-24, exact
    const float value = static_cast<float>(mantissa) * bits_to_float(103u << 23);
    return bits_to_float(sign | float_to_bits(value));
  }
  return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}

// Round to nearest, ties to even.
TRIBODY_INLINE uint16_t float_to_half(float value) {
#if TRIBODY_AVX2
  return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 1023));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);  // >= 65520
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 lets the float unit round at 2^-24.
    const float rounded = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(rounded) - 0x3f000000u));
  }
  const uint32_t rebased = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
#endif
}

#endif  // !TRIBODY_NEON

#if TRIBODY_AVX2

struct F32x8 {
  __m256 v;

  static TRIBODY_INLINE F32x8 zero() { return {_mm256_setzero_ps()}; }
  static TRIBODY_INLINE F32x8 broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static TRIBODY_INLINE F32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static TRIBODY_INLINE F32x8 load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static TRIBODY_INLINE F32x8 load_bfloat16(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  TRIBODY_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  TRIBODY_INLINE void store_half(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

TRIBODY_INLINE F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x8 operator/(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
// a * b + c, rounded once.
TRIBODY_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
TRIBODY_INLINE F32x8 max(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x8 min(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }

// 2^n for integral n in [-126, 127], held as float.
TRIBODY_INLINE F32x8 power_of_two(F32x8 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}

TRIBODY_INLINE F32x8 round_even(F32x8 a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
TRIBODY_INLINE float sum(F32x8 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// The largest lane; no lane may be NaN.
TRIBODY_INLINE float largest(F32x8 a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#elif !TRIBODY_NEON

struct F32x8 {
  float v[8];

  static TRIBODY_INLINE F32x8 broadcast(float x) { return {{x, x, x, x, x, x, x, x}}; }
  static TRIBODY_INLINE F32x8 zero() { return broadcast(0.0f); }
  static TRIBODY_INLINE F32x8 load(const float* p) {
    F32x8 r;
    memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static TRIBODY_INLINE F32x8 load_half(const uint16_t* p) {
    F32x8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = half_to_float(p[i]);
    return r;
  }
  static TRIBODY_INLINE F32x8 load_bfloat16(const uint16_t* p) {
    F32x8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = bfloat16_to_float(p[i]);
    return r;
  }
  TRIBODY_INLINE void store(float* p) const { memcpy(p, v, sizeof v); }
  TRIBODY_INLINE void store_half(uint16_t* p) const {
    for (int i = 0; i < 8; ++i) p[i] = float_to_half(v[i]);
  }
};

#define TRIBODY_LANES(EXPRESSION)                       \
  F32x8 r;                                              \
  for (int i = 0; i < 8; ++i) r.v[i] = EXPRESSION;      \
  return r

TRIBODY_INLINE F32x8 operator+(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] + b.v[i]); }
TRIBODY_INLINE F32x8 operator-(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] - b.v[i]); }
TRIBODY_INLINE F32x8 operator*(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] * b.v[i]); }
TRIBODY_INLINE F32x8 operator/(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] / b.v[i]); }
TRIBODY_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) {
  TRIBODY_LANES(__builtin_fmaf(a.v[i], b.v[i], c.v[i]));
}
TRIBODY_INLINE F32x8 max(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
TRIBODY_INLINE F32x8 min(F32x8 a, F32x8 b) { TRIBODY_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
TRIBODY_INLINE F32x8 power_of_two(F32x8 n) {
  // The comparison keeps NaN out of the conversion, which it would make undefined.
  TRIBODY_LANES(bits_to_float(
      static_cast<uint32_t>((n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) : 0) + 127) << 23));
}
TRIBODY_INLINE F32x8 round_even(F32x8 a) { TRIBODY_LANES(__builtin_nearbyintf(a.v[i])); }
#undef TRIBODY_LANES

TRIBODY_INLINE float sum(F32x8 a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}

TRIBODY_INLINE float largest(F32x8 a) {
  float r = a.v[0];
  for (int i = 1; i < 8; ++i) r = a.v[i] > r ? a.v[i] : r;
  return r;
}

#endif

// The first `count` (0 to 8) floats, zeros in the other lanes.
TRIBODY_INLINE F32x8 load_first(const float* p, int64_t count) {
  float lanes[8] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * 4);
  return F32x8::load(lanes);
}

TRIBODY_INLINE void store_first(F32x8 a, float* p, int64_t count) {
  float lanes[8];
  a.store(lanes);
  memcpy(p, lanes, static_cast<size_t>(count) * 4);
}

// e^(x - n ln 2) for n = round(x / ln 2), |x| < 128: ln 2 in two parts (Cody and Waite), then the
// Taylor polynomial of degree 7, whose remainder is 5e-9 (under 0.1 ulp).
template <class F>
TRIBODY_INLINE F exp_fraction(F x, F n) {
  F r = fma(n, F::broadcast(-0.693145751953125f), x);
  r = fma(n, F::broadcast(-1.42860682030941723e-6f), r);
  F p = F::broadcast(1.0f / 5040);
  p = fma(p, r, F::broadcast(1.0f / 720));
  p = fma(p, r, F::broadcast(1.0f / 120));
  p = fma(p, r, F::broadcast(1.0f / 24));
  p = fma(p, r, F::broadcast(1.0f / 6));
  p = fma(p, r, F::broadcast(0.5f));
  p = fma(p, r, F::broadcast(1.0f));
  return fma(p, r, F::broadcast(1.0f));
}

// e^x within 1.5 ulp for every x (tests/ops/test_exp.py), 0 below -103.98, inf above 88.73, NaN for
// NaN.  2^n in two factors, so that results that are subnormal round once.
TRIBODY_INLINE F32x8 exp(F32x8 x) {
  x = min(F32x8::broadcast(89.0f), max(F32x8::broadcast(-105.0f), x));
  const F32x8 n = round_even(x * F32x8::broadcast(1.44269504088896341f));
  const F32x8 half = round_even(n * F32x8::broadcast(0.5f));
  return exp_fraction(x, n) * power_of_two(half) * power_of_two(n - half);
}

// x / (1 + e^-x)
TRIBODY_INLINE F32x8 silu(F32x8 x) {
  return x / (F32x8::broadcast(1.0f) + exp(F32x8::zero() - x));
}

// E4M3 codes as float16 of 2^-8 of their value: shifted to the place of float16's exponent and
// mantissa, subnormals included.  The sign is extended into bit 14 by the widening and cleared there.
// As precision/float_codes.py, from_e4m3.
TRIBODY_INLINE uint16_t e4m3_to_half(uint8_t code) {
  const auto wide = static_cast<uint16_t>(static_cast<int8_t>(code));
  return static_cast<uint16_t>(wide << 7 & 0xbfff);
}

#if TRIBODY_AVX2
TRIBODY_INLINE __m256i e4m3_to_halves(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_and_si256(_mm256_slli_epi16(wide, 7),
                          _mm256_set1_epi16(static_cast<int16_t>(0xbfff)));
}
#endif

// Sixteen floats: the rows of a float panel.
#if TRIBODY_AVX512

struct F32x16 {
  __m512 v;

  static TRIBODY_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
  static TRIBODY_INLINE F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static TRIBODY_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static TRIBODY_INLINE F32x16 load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static TRIBODY_INLINE F32x16 load_bfloat16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  // Sixteen E4M3 codes times 2^-8.
  static TRIBODY_INLINE F32x16 load_e4m3(const uint8_t* p) {
    return {_mm512_cvtph_ps(e4m3_to_halves(p))};
  }
  TRIBODY_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
};

TRIBODY_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
TRIBODY_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
TRIBODY_INLINE F32x16 max(F32x16 a, F32x16 b) {
  // Unmasked maxps and rndscaleps through GCC's own spelling warn about an undefined operand.
  return {_mm512_maskz_max_ps(static_cast<__mmask16>(-1), a.v, b.v)};
}
TRIBODY_INLINE F32x16 round_even(F32x16 a) {
  return {_mm512_maskz_roundscale_ps(static_cast<__mmask16>(-1), a.v,
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TRIBODY_INLINE F32x8 low_half(F32x16 a) { return {_mm512_castps512_ps256(a.v)}; }
TRIBODY_INLINE F32x8 high_half(F32x16 a) {
  return {_mm512_maskz_extractf32x8_ps(static_cast<__mmask8>(-1), a.v, 1)};
}

#else

struct F32x16 {
  F32x8 low, high;

  static TRIBODY_INLINE F32x16 zero() { return {F32x8::zero(), F32x8::zero()}; }
  static TRIBODY_INLINE F32x16 broadcast(float x) {
    return {F32x8::broadcast(x), F32x8::broadcast(x)};
  }
  static TRIBODY_INLINE F32x16 load(const float* p) { return {F32x8::load(p), F32x8::load(p + 8)}; }
  static TRIBODY_INLINE F32x16 load_half(const uint16_t* p) {
    return {F32x8::load_half(p), F32x8::load_half(p + 8)};
  }
  static TRIBODY_INLINE F32x16 load_bfloat16(const uint16_t* p) {
    return {F32x8::load_bfloat16(p), F32x8::load_bfloat16(p + 8)};
  }
  // Sixteen E4M3 codes times 2^-8.
  static TRIBODY_INLINE F32x16 load_e4m3(const uint8_t* p) {
#if TRIBODY_AVX2
    const __m256i halves = e4m3_to_halves(p);
    return {{_mm256_cvtph_ps(_mm256_castsi256_si128(halves))},
            {_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))}};
#elif TRIBODY_NEON
    F32x16 r;
    e4m3_to_floats(p, r.low, r.high);
    return r;
#else
    uint16_t halves[16];
    for (int i = 0; i < 16; ++i) halves[i] = e4m3_to_half(p[i]);
    return {F32x8::load_half(halves), F32x8::load_half(halves + 8)};
#endif
  }
  TRIBODY_INLINE void store(float* p) const {
    low.store(p);
    high.store(p + 8);
  }
};

TRIBODY_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}
TRIBODY_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {a.low + b.low, a.high + b.high}; }
TRIBODY_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {a.low - b.low, a.high - b.high}; }
TRIBODY_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {a.low * b.low, a.high * b.high}; }
TRIBODY_INLINE F32x16 max(F32x16 a, F32x16 b) { return {max(a.low, b.low), max(a.high, b.high)}; }
TRIBODY_INLINE F32x16 round_even(F32x16 a) { return {round_even(a.low), round_even(a.high)}; }
TRIBODY_INLINE F32x8 low_half(F32x16 a) { return a.low; }
TRIBODY_INLINE F32x8 high_half(F32x16 a) { return a.high; }

#endif

// a * 2^n for integral n where neither 2^n nor the result is subnormal or overflows.
#if TRIBODY_AVX512
TRIBODY_INLINE F32x16 times_power_of_two(F32x16 a, F32x16 n) {
  return {_mm512_maskz_scalef_ps(static_cast<__mmask16>(-1), a.v, n.v)};
}
#else
TRIBODY_INLINE F32x16 times_power_of_two(F32x16 a, F32x16 n) {
  return {a.low * power_of_two(n.low), a.high * power_of_two(n.high)};
}
#endif
TRIBODY_INLINE F32x8 times_power_of_two(F32x8 a, F32x8 n) { return a * power_of_two(n); }

// 2^x within an ulp for x in [-125, 125], undefined elsewhere but NaN for NaN; 1 for 0.  The
// fraction's polynomial has the least largest error, 2e-9, of those of degree 6 that are 1 at 0.
template <class F>
TRIBODY_INLINE F exp2_of_moderate(F x) {
  const F n = round_even(x), f = x - n;
  F p = F::broadcast(0x1.41fbbcp-13f);
  p = fma(p, f, F::broadcast(0x1.5f3e54p-10f));
  p = fma(p, f, F::broadcast(0x1.3b2d4cp-7f));
  p = fma(p, f, F::broadcast(0x1.c6aee8p-5f));
  p = fma(p, f, F::broadcast(0x1.ebfbdcp-3f));
  p = fma(p, f, F::broadcast(0x1.62e430p-1f));
  p = fma(p, f, F::broadcast(1.0f));
  return times_power_of_two(p, n);
}

}  // namespace tribody::TRIBODY_ISA
