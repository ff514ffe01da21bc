// The int8 half of the vector layer: dot products of w8g32 weights with A8 activations, and the
// rounding of 32 floats to bytes.  Sums are exact int32, so every instruction set gives the same bits.
//
// vpdpbusd multiplies unsigned by signed bytes: the VNNI levels take w + 128 (one xor for all rows of
// a tile) and start each sum at -128 * sum(x), which quantization notes beside the scale, so that
// it costs a load where zero would cost an instruction.  AVX2 moves w's sign to x (vpsignb), so
// that |w| <= 127 is the unsigned side: 2 * 127 * 127 < 2^15, vpmaddubsw cannot saturate.
#pragma once

#include "formats.h"
#include "simd.h"

#if TRIBODY_AVX512 || defined(__AVXVNNI__)
#define TRIBODY_VNNI 1
#else
#define TRIBODY_VNNI 0
#endif

namespace tribody::TRIBODY_ISA {

#if TRIBODY_AVX512
#define TRIBODY_DPBUSD _mm256_dpbusd_epi32
#else
#define TRIBODY_DPBUSD _mm256_dpbusd_avx_epi32
#endif

TRIBODY_INLINE int32_t load_four(const int8_t* codes) {
  int32_t four;
  memcpy(&four, codes, 4);
  return four;
}

// One panel: eight weight rows against M activation rows, one group of 32 at a time.
//   sums[m] lane r = sum over the group of w[r][k] * x[m][k]; row m's codes start at x + 32 m.
struct OnePanel {
  using Float = F32x8;
  static constexpr int kPanels = 1;

#if TRIBODY_AVX2
  using Int = __m256i;

  template <int M>
  static TRIBODY_INLINE void dot(const W8G32Tile* tile, int64_t, const int8_t* x,
                                 const A8Scale* scales, Int (&sums)[M]) {
    const auto* codes = reinterpret_cast<const __m256i*>(tile->codes);
#if TRIBODY_VNNI
    const Int bias = _mm256_set1_epi8(static_cast<char>(0x80));
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums[m] = _mm256_set1_epi32(scales[m].start);
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      const Int w = _mm256_xor_si256(_mm256_loadu_si256(codes + s), bias);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        sums[m] = TRIBODY_DPBUSD(sums[m], w, _mm256_set1_epi32(load_four(x + 32 * m + 4 * s)));
      }
    }
#else
    (void)scales;
    const Int ones = _mm256_set1_epi16(1);
    for (int m = 0; m < M; ++m) sums[m] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      const Int w = _mm256_loadu_si256(codes + s);
      const Int magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Int four = _mm256_set1_epi32(load_four(x + 32 * m + 4 * s));
        const Int pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four, w));
        sums[m] = _mm256_add_epi32(sums[m], _mm256_madd_epi16(pairs, ones));
      }
    }
#endif
  }

  static TRIBODY_INLINE Float to_float(Int sums) { return {_mm256_cvtepi32_ps(sums)}; }

#else
  struct Int {
    int32_t v[8];
  };

  template <int M>
  static TRIBODY_INLINE void dot(const W8G32Tile* tile, int64_t, const int8_t* x, const A8Scale*,
                                 Int (&sums)[M]) {
    for (int m = 0; m < M; ++m) {
      for (int r = 0; r < 8; ++r) sums[m].v[r] = 0;
      for (int s = 0; s < 8; ++s) {
        for (int r = 0; r < 8; ++r) {
          for (int i = 0; i < 4; ++i) {
            sums[m].v[r] += tile->codes[s][r][i] * x[32 * m + 4 * s + i];
          }
        }
      }
    }
  }

  static TRIBODY_INLINE Float to_float(const Int& sums) {
    F32x8 r;
    for (int i = 0; i < 8; ++i) r.v[i] = static_cast<float>(sums.v[i]);
    return r;
  }
#endif

  static TRIBODY_INLINE Float weight_scales(const W8G32Tile* tile, int64_t) {
    return F32x8::load_half(tile->scales);
  }
  // The eight sums of panel `panel`.
  static TRIBODY_INLINE F32x8 part(Float sums, int) { return sums; }
};

#if TRIBODY_AVX512

// Two neighbouring panels, sixteen weight rows in 512-bit registers: the two multiply ports of a
// server core take twice the bytes.  `next` is the distance to the second panel in tiles.
struct TwoPanels {
  using Float = F32x16;
  using Int = __m512i;
  static constexpr int kPanels = 2;

  template <int M>
  static TRIBODY_INLINE void dot(const W8G32Tile* tile, int64_t next, const int8_t* x,
                                 const A8Scale* scales, Int (&sums)[M]) {
    const auto* low = reinterpret_cast<const __m256i*>(tile->codes);
    const auto* high = reinterpret_cast<const __m256i*>(tile[next].codes);
    const Int bias = _mm512_set1_epi8(static_cast<char>(0x80));
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums[m] = _mm512_set1_epi32(scales[m].start);
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      const Int both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(low + s)),
                                          _mm256_loadu_si256(high + s), 1);
      const Int w = _mm512_xor_si512(both, bias);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        sums[m] =
            _mm512_dpbusd_epi32(sums[m], w, _mm512_set1_epi32(load_four(x + 32 * m + 4 * s)));
      }
    }
  }

  static TRIBODY_INLINE Float to_float(Int sums) { return {_mm512_cvtepi32_ps(sums)}; }
  static TRIBODY_INLINE Float weight_scales(const W8G32Tile* tile, int64_t next) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile->scales));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile[next].scales));
    return {_mm512_cvtph_ps(_mm256_set_m128i(high, low))};
  }
  static TRIBODY_INLINE F32x8 part(Float sums, int panel) {
    return {panel == 0 ? _mm512_castps512_ps256(sums.v) : _mm512_extractf32x8_ps(sums.v, 1)};
  }
};

#endif

// The largest |x| of 32 floats.  Compared as integers, which orders magnitudes and puts Inf and NaN
// on top: a group that is not finite shows itself.
TRIBODY_INLINE float largest_magnitude(const float* x) {
#if TRIBODY_AVX2
  const auto* p = reinterpret_cast<const __m256i*>(x);
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_and_si256(_mm256_loadu_si256(p), mask);
  for (int i = 1; i < 4; ++i) {
    most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_loadu_si256(p + i), mask));
  }
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return bits_to_float(static_cast<uint32_t>(_mm_cvtsi128_si32(four)));
#else
  uint32_t most = 0;
  for (int i = 0; i < 32; ++i) {
    const uint32_t bits = float_to_bits(x[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return bits_to_float(most);
#endif
}

TRIBODY_INLINE bool is_finite(float x) {
  return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u;
}

// codes[i] = round-half-even(x[i] * factor) limited to [-127, 127]; factor and x are finite.
// Returns the sum of the codes.
TRIBODY_INLINE int32_t round_to_bytes(const float* x, float factor, int8_t* codes) {
#if TRIBODY_AVX2
  const __m256 f = _mm256_set1_ps(factor);
  __m256i words[4];
  for (int i = 0; i < 4; ++i) {
    words[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), f));
  }
  const __m256i low = _mm256_packs_epi32(words[0], words[1]);
  const __m256i high = _mm256_packs_epi32(words[2], words[3]);
  __m256i bytes = _mm256_packs_epi16(low, high);
  bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  bytes = _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), bytes);
  // Sums of eight unsigned bytes each; 32 times the offset of 128 is taken off at the end.
  const __m256i positive = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(0x80)));
  const __m256i eights = _mm256_sad_epu8(positive, _mm256_setzero_si256());
  const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(eights),
                                    _mm256_extracti128_si256(eights, 1));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 2) - kGroup * 128;
#else
  int32_t total = 0;
  for (int i = 0; i < 32; ++i) {
    float value = __builtin_nearbyintf(x[i] * factor);
    value = value > 127.0f ? 127.0f : value < -127.0f ? -127.0f : value;
    codes[i] = static_cast<int8_t>(value);
    total += codes[i];
  }
  return total;
#endif
}

}  // namespace tribody::TRIBODY_ISA
