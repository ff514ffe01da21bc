// Sums of products of one group on NEON, for linear_int.cc.
//
// NEON multiplies signed bytes, which hold w8g32's codes as they are and the unsigned forms of all
// others.  sdot (Armv8.2) adds in 32 bits.  Older machines multiply to 16 bits, where a lane holds
// n = 32767 / (U * 127) products of codes of at most U: all 8 steps of w5m32, w4m32 and fp4g32, 4 of
// w6g32, 2 of w8g32.  tests/ops/test_saturation.py has the cases at these bounds.
#pragma once

#include "int_formats.h"

namespace tribody::TRIBODY_ISA {

// The same contract as the Sums of linear_int.cc.  The group's bytes stay in sixteen of the 32
// registers while rows pass by.
template <class Source, int M>
class Sums {
  using F = typename Source::Format;
  using P = typename Source::Width;
  static constexpr bool kIsSigned = F::kFormat == WeightFormat::w8g32;

 public:
  TRIBODY_INLINE Sums(const Source& source, int64_t g, const int8_t* x, const A8Scale* scales)
      : x_(x), scales_(scales) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      if constexpr (kIsSigned) {
        w_[s] = P::load(source.tiles[g].codes[s], source.next);
      } else {
        w_[s] = source.step(g, s);
      }
    }
  }

  TRIBODY_INLINE typename P::Int of(int m) const {
    const int8x16_t x[2] = {vld1q_s8(x_ + kGroup * m), vld1q_s8(x_ + kGroup * m + 16)};
    const typename P::Int start = kIsSigned ? P::every(0) : F::template start<P>(scales_[m]);
#if defined(__ARM_FEATURE_DOTPROD)
    return {add_steps(start.low, x, [&](int s) { return w_[s].low; }),
            add_steps(start.high, x, [&](int s) { return w_[s].high; })};
#else
    constexpr int kLargest = kIsSigned ? 127 : F::kLargest;
    constexpr int kFit = 32767 / (kLargest * 127), kTogether = kFit < kSteps ? kFit : kSteps;
    static_assert(kTogether > 0 && kSteps % kTogether == 0);
    int8x16_t four[kSteps];  // a step's four columns for four rows
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int32x4_t lanes = vreinterpretq_s32_s8(x[half]);
      four[4 * half] = vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 0));
      four[4 * half + 1] = vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 1));
      four[4 * half + 2] = vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 2));
      four[4 * half + 3] = vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 3));
    }
    return {add_products<kTogether>(start.low, four, [&](int s) { return w_[s].low; }),
            add_products<kTogether>(start.high, four, [&](int s) { return w_[s].high; })};
#endif
  }

 private:
#if defined(__ARM_FEATURE_DOTPROD)
  // sums + the products of eight steps, step s being lane s % 4 of x[s / 4]; w(s) is of four rows.
  template <class Weights>
  static TRIBODY_INLINE int32x4_t add_steps(int32x4_t sums, const int8x16_t (&x)[2],
                                            const Weights& w) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int s = 4 * half;
      sums = vdotq_laneq_s32(sums, vreinterpretq_s8_u8(w(s)), x[half], 0);
      sums = vdotq_laneq_s32(sums, vreinterpretq_s8_u8(w(s + 1)), x[half], 1);
      sums = vdotq_laneq_s32(sums, vreinterpretq_s8_u8(w(s + 2)), x[half], 2);
      sums = vdotq_laneq_s32(sums, vreinterpretq_s8_u8(w(s + 3)), x[half], 3);
    }
    return sums;
  }
#else
  // The same; products of `Together` steps are added in 16 bits.
  template <int Together, class Weights>
  static TRIBODY_INLINE int32x4_t add_products(int32x4_t sums, const int8x16_t (&x)[kSteps],
                                               const Weights& w) {
    int32x4_t first = vdupq_n_s32(0), second = first;  // two rows each, a row in two lanes
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; s += Together) {
      const int8x16_t head = vreinterpretq_s8_u8(w(s));
      int16x8_t low = vmull_s8(vget_low_s8(head), vget_low_s8(x[s]));
      int16x8_t high = vmull_high_s8(head, x[s]);
#pragma GCC unroll 8
      for (int t = s + 1; t < s + Together; ++t) {
        const int8x16_t own = vreinterpretq_s8_u8(w(t));
        low = vmlal_s8(low, vget_low_s8(own), vget_low_s8(x[t]));
        high = vmlal_high_s8(high, own, x[t]);
      }
      first = vpadalq_s16(first, low);
      second = vpadalq_s16(second, high);
    }
    return vaddq_s32(sums, vpaddq_s32(first, second));
  }
#endif

  typename P::Bytes w_[kSteps];
  const int8_t* x_;
  const A8Scale* scales_;
};

}  // namespace tribody::TRIBODY_ISA
