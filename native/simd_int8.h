// The int8 half of the vector layer: the bytes of a step, sums of products of unsigned weight codes
// with A8 activations, and the rounding of 32 floats to bytes.  Sums are exact int32, so every
// instruction set gives the same bits.
//
// OnePanel and TwoPanels are the two widths that a kernel works at (linear_int.cc): eight rows in a
// 256-bit register, or two neighbouring panels, sixteen rows, in a 512-bit one, because the two
// multiply ports of a server core take twice the bytes.  `next` is the distance to the second panel
// in bytes.  Shifts of Bytes move bits across the edges of bytes; callers mask them off.
#pragma once

#include "formats.h"
#include "simd.h"

#if TRIBODY_NEON
#include "simd_int8_neon.h"
#endif

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

#if TRIBODY_AVX2
TRIBODY_INLINE __m128i load_eight(const uint8_t* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}
#endif

#if !TRIBODY_NEON
struct OnePanel {
  using Float = F32x8;
  static constexpr int kPanels = 1;

#if TRIBODY_AVX2
  using Bytes = __m256i;  // one step: four columns of each row
  using Int = __m256i;    // one int32 for each row

  static TRIBODY_INLINE Bytes load(const void* p, int64_t) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static TRIBODY_INLINE Bytes keep(Bytes v, int mask) {
    return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static TRIBODY_INLINE Bytes flip(Bytes v, int mask) {
    return _mm256_xor_si256(v, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static TRIBODY_INLINE Bytes join(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
  static TRIBODY_INLINE Bytes left(Bytes v, int bits) { return _mm256_slli_epi32(v, bits); }
  static TRIBODY_INLINE Bytes right(Bytes v, int bits) { return _mm256_srli_epi32(v, bits); }
  // table[byte] for bytes in [0, 15].
  static TRIBODY_INLINE Bytes look_up(const uint8_t (&table)[16], Bytes v) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), v);
  }
  static TRIBODY_INLINE Int every(int32_t x) { return _mm256_set1_epi32(x); }
  static TRIBODY_INLINE Int shift_signed(Int v, int bits) { return _mm256_srai_epi32(v, bits); }
#if TRIBODY_VNNI
  // sums + four products of unsigned w and signed x in each row.
  static TRIBODY_INLINE Int add_products(Int sums, Bytes w, Int x) {
    return TRIBODY_DPBUSD(sums, w, x);
  }
#endif
  static TRIBODY_INLINE Float to_float(Int sums) { return {_mm256_cvtepi32_ps(sums)}; }
  // Eight unsigned bytes, and 2^(byte - 127) of eight UE8M0 bytes: exponents, but for 0, which is
  // 2^-127, a subnormal.  255 gives Inf: with the codes of zeros that such a group has, NaN.
  static TRIBODY_INLINE Float bytes(const uint8_t* p, int64_t) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_eight(p)))};
  }
  static TRIBODY_INLINE Float powers(const uint8_t* p, int64_t) {
    const __m256i exponents = _mm256_slli_epi32(_mm256_cvtepu8_epi32(load_eight(p)), 23);
    return {_mm256_castsi256_ps(_mm256_max_epi32(exponents, _mm256_set1_epi32(0x00400000)))};
  }

#else
  struct Bytes {
    uint32_t v[8];
  };
  struct Int {
    int32_t v[8];
  };

#define TRIBODY_LANES(TYPE, EXPRESSION)            \
  TYPE r;                                          \
  for (int i = 0; i < 8; ++i) r.v[i] = EXPRESSION; \
  return r
  static TRIBODY_INLINE Bytes load(const void* p, int64_t) {
    Bytes r;
    memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static TRIBODY_INLINE Bytes keep(Bytes a, int mask) {
    TRIBODY_LANES(Bytes, a.v[i] & 0x01010101u * static_cast<uint32_t>(mask));
  }
  static TRIBODY_INLINE Bytes flip(Bytes a, int mask) {
    TRIBODY_LANES(Bytes, a.v[i] ^ 0x01010101u * static_cast<uint32_t>(mask));
  }
  static TRIBODY_INLINE Bytes join(Bytes a, Bytes b) { TRIBODY_LANES(Bytes, a.v[i] | b.v[i]); }
  static TRIBODY_INLINE Bytes left(Bytes a, int bits) { TRIBODY_LANES(Bytes, a.v[i] << bits); }
  static TRIBODY_INLINE Bytes right(Bytes a, int bits) { TRIBODY_LANES(Bytes, a.v[i] >> bits); }
  static TRIBODY_INLINE Bytes look_up(const uint8_t (&table)[16], Bytes a) {
    uint8_t codes[32];
    memcpy(codes, a.v, sizeof codes);
    for (uint8_t& code : codes) code = table[code];
    return load(codes, 0);
  }
  static TRIBODY_INLINE Int every(int32_t x) { TRIBODY_LANES(Int, x); }
  static TRIBODY_INLINE Int shift_signed(Int a, int bits) { TRIBODY_LANES(Int, a.v[i] >> bits); }
  static TRIBODY_INLINE Float to_float(const Int& a) {
    TRIBODY_LANES(F32x8, static_cast<float>(a.v[i]));
  }
  static TRIBODY_INLINE Float bytes(const uint8_t* p, int64_t) {
    TRIBODY_LANES(F32x8, static_cast<float>(p[i]));
  }
  static TRIBODY_INLINE Float powers(const uint8_t* p, int64_t) {
    TRIBODY_LANES(F32x8, bits_to_float(p[i] == 0 ? 0x00400000u : uint32_t{p[i]} << 23));
  }
#undef TRIBODY_LANES
#endif

  // Eight float16.
  static TRIBODY_INLINE Float halves(const uint16_t* p, int64_t) { return F32x8::load_half(p); }
  // The eight sums of panel `panel`.
  static TRIBODY_INLINE F32x8 part(Float sums, int) { return sums; }
};
#endif  // !TRIBODY_NEON

#if TRIBODY_AVX512

// The same of both panels; see OnePanel.
struct TwoPanels {
  using Float = F32x16;
  using Bytes = __m512i;
  using Int = __m512i;
  static constexpr int kPanels = 2;

  static TRIBODY_INLINE Bytes load(const void* p, int64_t next) {
    const auto* low = static_cast<const uint8_t*>(p);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + next));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  }
  static TRIBODY_INLINE Bytes keep(Bytes v, int mask) {
    return v & _mm512_set1_epi8(static_cast<char>(mask));
  }
  static TRIBODY_INLINE Bytes flip(Bytes v, int mask) {
    return v ^ _mm512_set1_epi8(static_cast<char>(mask));
  }
  static TRIBODY_INLINE Bytes join(Bytes a, Bytes b) { return a | b; }
  // Each byte less `offset`; of 128 by a flip, which takes another one back.
  static TRIBODY_INLINE Bytes less(Bytes v, int offset) {
    return offset == 128 ? flip(v, 0x80)
                         : _mm512_sub_epi8(v, _mm512_set1_epi8(static_cast<char>(offset)));
  }
  static TRIBODY_INLINE Bytes left(Bytes v, int bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Words>(v) << bits);
  }
  static TRIBODY_INLINE Bytes right(Bytes v, int bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Words>(v) >> bits);
  }
  static TRIBODY_INLINE Bytes look_up(const uint8_t (&table)[16], Bytes v) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(
        _mm512_maskz_broadcast_i32x4(static_cast<__mmask16>(-1), entries), v);
  }
  static TRIBODY_INLINE Int every(int32_t x) { return _mm512_set1_epi32(x); }
  static TRIBODY_INLINE Int shift_signed(Int v, int bits) {
    return reinterpret_cast<Int>(reinterpret_cast<SignedWords>(v) >> bits);
  }
  static TRIBODY_INLINE Int add_products(Int sums, Bytes w, Int x) {
    return _mm512_dpbusd_epi32(sums, w, x);
  }
  static TRIBODY_INLINE Float to_float(Int sums) {
    // Masked, as halves() is and for its reason.
    return {_mm512_maskz_cvtepi32_ps(static_cast<__mmask16>(-1), sums)};
  }
  static TRIBODY_INLINE Float bytes(const uint8_t* p, int64_t next) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_sixteen(p, next)))};
  }
  static TRIBODY_INLINE Float powers(const uint8_t* p, int64_t next) {
    const __m512i exponents = left(_mm512_cvtepu8_epi32(load_sixteen(p, next)), 23);
    return {_mm512_castsi512_ps(_mm512_max_epi32(exponents, _mm512_set1_epi32(0x00400000)))};
  }
  static TRIBODY_INLINE Float halves(const uint16_t* p, int64_t next) {
    const auto* low = reinterpret_cast<const uint8_t*>(p);
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
    const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low + next));
    // Masked forms: GCC's unmasked ones warn about an operand that they leave undefined.
    return {_mm512_maskz_cvtph_ps(static_cast<__mmask16>(-1), _mm256_set_m128i(second, first))};
  }
  static TRIBODY_INLINE F32x8 part(Float sums, int panel) {
    constexpr auto kAll = static_cast<__mmask8>(-1);
    return {panel == 0 ? _mm512_maskz_extractf32x8_ps(kAll, sums.v, 0)
                       : _mm512_maskz_extractf32x8_ps(kAll, sums.v, 1)};
  }

 private:
  // Shifts are written with operators: the intrinsics want a constant before loops are unrolled.
  typedef uint32_t Words __attribute__((vector_size(64)));
  typedef int32_t SignedWords __attribute__((vector_size(64)));

  static TRIBODY_INLINE __m128i load_sixteen(const uint8_t* p, int64_t next) {
    return _mm_unpacklo_epi64(load_eight(p), load_eight(p + next));
  }
};

#endif

TRIBODY_INLINE bool is_finite(float x) {
  return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u;
}

#if !TRIBODY_NEON

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

#endif  // !TRIBODY_NEON

}  // namespace tribody::TRIBODY_ISA
