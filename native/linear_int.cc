// Products of integer codes with A8 activations: w8g32, w6g32, w5m32, w4m32 and fp4g32.
//
// For each group of 32 columns and each row of a panel
//     result = fma(float(sum of code * x), weight scale * x scale, result)
// or, where the format has a minimum,
//     value  = fma(float(sum of code * x), weight scale, -minimum * float(sum of x))
//     result = fma(value, x scale, result)
// in the order of K.  Sums are exact int32, so the bits are the same on every instruction set.
//
// vpdpbusd multiplies unsigned by signed bytes and adds in 32 bits: the VNNI levels take every format
// in its unsigned form.  vpmaddubsw adds each pair of products into 16 bits and saturates.  With
// codes of at most U and |x| <= 127 a pair is at most 2 * U * 127, and n = 32767 / (2 * U * 127) of
// them fit together into 16 bits: 8 of w4m32's, 4 of w5m32's and fp4g32's, 2 of w6g32's.  So one
// vpmaddwd, which widens to 32 bits, serves n steps; this is what AVX2 gains from fewer bits.
// w8g32 has no room for its unsigned form and moves the weight's sign to x (vpsignb), so that
// |w| <= 127 is the unsigned side: 2 * 127 * 127 < 2^15.  tests/ops/test_saturation.py holds every
// format to an int64 oracle at these bounds.
//
// NEON's sums are in int_sums_neon.h.  More than eight rows go by sixteen through AMX's tiles where
// the level has them (linear_amx.h).
#include "linear_amx.h"

#if TRIBODY_NEON
#include "int_sums_neon.h"
#endif

namespace tribody::TRIBODY_ISA {
namespace {

// ---- sums of one group ----------------------------------------------------------------------------

// Sums of M activation rows with group g; row m's codes start at x + 32 m.  Every step is unpacked
// once for all rows.
#if TRIBODY_VNNI

template <class Source, int M>
class Sums {
  using F = typename Source::Format;
  using P = typename Source::Width;

 public:
  TRIBODY_INLINE Sums(const Source& source, int64_t g, const int8_t* x, const A8Scale* scales) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums_[m] = F::template start<P>(scales[m]);
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      const auto w = source.step(g, s);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        sums_[m] = P::add_products(sums_[m], w, P::every(load_four(x + kGroup * m + 4 * s)));
      }
    }
  }
  TRIBODY_INLINE typename P::Int of(int m) const { return sums_[m]; }

 private:
  typename P::Int sums_[M];
};

#elif !TRIBODY_NEON

// The tile's bytes stay in registers while rows pass by: a row needs two more, where sums of eight
// rows at once would need sixteen, half of them in 16 bits.
template <class Source, int M>
class Sums {
  using F = typename Source::Format;
  using P = typename Source::Width;

 public:
  TRIBODY_INLINE Sums(const Source& source, int64_t g, const int8_t* x, const A8Scale* scales)
      : x_(x), scales_(scales) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) w_[s] = source.step(g, s);
  }

  TRIBODY_INLINE typename P::Int of(int m) const {
    const int8_t* x = x_ + kGroup * m;
    typename P::Int sum = F::template start<P>(scales_[m]);
#if TRIBODY_AVX2
    constexpr int kTogether = 32767 / (2 * F::kLargest * 127) < kSteps
                                  ? 32767 / (2 * F::kLargest * 127)
                                  : kSteps;
    static_assert(kTogether > 0 && kSteps % kTogether == 0);
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; s += kTogether) {
      __m256i pairs = _mm256_maddubs_epi16(w_[s], P::every(load_four(x + 4 * s)));
#pragma GCC unroll 8
      for (int t = s + 1; t < s + kTogether; ++t) {
        const __m256i more = _mm256_maddubs_epi16(w_[t], P::every(load_four(x + 4 * t)));
        pairs = _mm256_add_epi16(pairs, more);
      }
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#else
    for (int s = 0; s < kSteps; ++s) {
      uint8_t codes[8][4];
      memcpy(codes, w_[s].v, sizeof codes);
      for (int r = 0; r < 8; ++r) {
        for (int i = 0; i < 4; ++i) sum.v[r] += codes[r][i] * x[4 * s + i];
      }
    }
#endif
    return sum;
  }

 private:
  typename P::Bytes w_[kSteps];
  const int8_t* x_;
  const A8Scale* scales_;
};

// w8g32 takes its codes as they are, signed.
template <class P, int M>
class Sums<Packed<W8, P>, M> {
 public:
  TRIBODY_INLINE Sums(const Packed<W8, P>& source, int64_t g, const int8_t* x, const A8Scale*) {
    const W8G32Tile* tile = source.tiles + g;
#if TRIBODY_AVX2
    const __m256i ones = _mm256_set1_epi16(1);
    for (int m = 0; m < M; ++m) sums_[m] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      const __m256i w = P::load(tile->codes[s], 0);
      const __m256i magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const __m256i four = P::every(load_four(x + kGroup * m + 4 * s));
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four, w));
        sums_[m] = _mm256_add_epi32(sums_[m], _mm256_madd_epi16(pairs, ones));
      }
    }
#else
    for (int m = 0; m < M; ++m) {
      for (int r = 0; r < 8; ++r) sums_[m].v[r] = 0;
      for (int s = 0; s < kSteps; ++s) {
        for (int r = 0; r < 8; ++r) {
          for (int i = 0; i < 4; ++i) {
            sums_[m].v[r] += tile->codes[s][r][i] * x[kGroup * m + 4 * s + i];
          }
        }
      }
    }
#endif
  }
  TRIBODY_INLINE typename P::Int of(int m) const { return sums_[m]; }

 private:
  typename P::Int sums_[M];
};

#endif

// ---- tiles ----------------------------------------------------------------------------------------

// M rows of activations in row tiles of `height`.  The first rows of a panel fetch the panels that
// follow.
template <class Source, int M>
TRIBODY_INLINE void int_tile(const Source& source, const PanelTask& task, int64_t height,
                             int64_t row, bool is_first) {
  using P = typename Source::Width;
  using Float = typename P::Float;
  const int64_t groups = task.x.groups;
  const int64_t place = row / height * groups * height + row % height;
  const int8_t* codes = task.x.codes + place * kGroup;
  const A8Scale* scales = task.x.scales + place;
  Float results[M];
  for (int m = 0; m < M; ++m) results[m] = Float::zero();
  for (int64_t g = 0; g < groups; ++g) {
    if (is_first) source.fetch_ahead(g);
    const Sums<Source, M> sums(source, g, codes, scales);
    const Float weight_scale = source.scale(g), minimum = source.minimum(g);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Float sum = P::to_float(sums.of(m)), x_scale = Float::broadcast(scales[m].scale);
      if constexpr (Source::Format::kHasMinimum) {
        const Float below = minimum * P::to_float(P::every(scales[m].start));
        results[m] = fma(fma(sum, weight_scale, below), x_scale, results[m]);
      } else {
        results[m] = fma(sum, weight_scale * x_scale, results[m]);
      }
    }
    codes += height * kGroup;
    scales += height;
  }
  const Output out = task.out;  // a copy, which no store can be thought to change
  for (int p = 0; p < P::kPanels; ++p) {
    const int64_t n = task.n + kPanelRowsInt * p, valid = task.num_rows - n;
    for (int m = 0; m < M; ++m) store_eight(P::part(results[m], p), out, row + m, n, valid);
  }
}

// A call: a panel of one row is part of its loop, the others are long enough to stand alone.
template <class Source, int M>
__attribute__((noinline)) void row_tile(const Source& given, const PanelTask& task, int64_t row,
                                        bool is_first) {
  const Source source = given;
  int_tile<Source, M>(source, task, task.x.height, row, is_first);
}

template <class Source>
TRIBODY_INLINE void int_rows(const Source& source, const PanelTask& task, int64_t count,
                             int64_t row, bool is_first) {
  switch (count) {
    case 1: return row_tile<Source, 1>(source, task, row, is_first);
    case 2: return row_tile<Source, 2>(source, task, row, is_first);
    case 3: return row_tile<Source, 3>(source, task, row, is_first);
    case 4: return row_tile<Source, 4>(source, task, row, is_first);
    case 5: return row_tile<Source, 5>(source, task, row, is_first);
    case 6: return row_tile<Source, 6>(source, task, row, is_first);
    case 7: return row_tile<Source, 7>(source, task, row, is_first);
    default: return row_tile<Source, 8>(source, task, row, is_first);
  }
}

template <class F, class P>
TRIBODY_INLINE void int_panels(const uint8_t* panel, int64_t next, const uint8_t* ahead,
                               const PanelTask& task, const Span& span) {
  const Packed<F, P> packed(panel, next, ahead);
  if (task.x.height == 1) return int_tile<Packed<F, P>, 1>(packed, task, 1, 0, true);
  int64_t row = span.first_row;
#if TRIBODY_AVX512
  if constexpr (P::kPanels == 2) {
    if (task.on_tiles && span.end_row - row > kRowTile) {
      row = tall_tiles<F>(packed, task, row, span.end_row);
    }
  }
#endif
  if constexpr (F::kUnpacks) {
    if (span.end_row - row >= tunables.unpack_rows) {
      const Unpacked<F, P> unpacked(packed, task.x.groups);
      for (; row + kRowTile <= span.end_row; row += kRowTile) {
        row_tile<Unpacked<F, P>, kRowTile>(unpacked, task, row, row == span.first_row);
      }
    }
  }
  for (; row < span.end_row; row += kRowTile) {
    int_rows(packed, task, span.end_row - row, row, row == span.first_row);
  }
}

template <class F>
void multiply_format(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                     const Output& out) {
  const int64_t next = w.bytes_per_panel();
  const uint8_t* data = w.panel(expert, span.first_panel);
  int64_t panel = span.first_panel;
  PanelTask task{x, out, panel * kPanelRowsInt, w.rows, false};
  const auto advance = [&](int64_t panels) {
    panel += panels;
    data += panels * next;
    task.n += panels * kPanelRowsInt;
  };
  // What is read after these panels: those that follow or, where the thread's share ends, what
  // comes after the region.
  const auto ahead = [&](int64_t panels) {
    const uint8_t* later =
        panel + panels < span.end_panel ? nullptr : reading_after_share(panels * next);
    return later == nullptr ? data + panels * next : later;
  };
#if TRIBODY_AVX512
  if (panel + 2 <= span.end_panel) {
    task.on_tiles = current_isa() == Isa::amx && span.end_row - span.first_row > kRowTile;
    if (task.on_tiles) shape_tiles();
    for (; panel + 2 <= span.end_panel; advance(2)) {
      int_panels<F, TwoPanels>(data, next, ahead(2), task, span);
    }
    if (task.on_tiles) release_tiles();
  }
#endif
  for (; panel < span.end_panel; advance(1)) {
    int_panels<F, OnePanel>(data, next, ahead(1), task, span);
  }
}

}  // namespace

void multiply_int(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                  const Output& out) {
  switch (w.format) {
    case WeightFormat::w8g32: return multiply_format<W8>(x, w, expert, span, out);
    case WeightFormat::w6g32: return multiply_format<W6>(x, w, expert, span, out);
    case WeightFormat::w5m32: return multiply_format<W5>(x, w, expert, span, out);
    case WeightFormat::w4m32: return multiply_format<W4>(x, w, expert, span, out);
    default: return multiply_format<Fp4>(x, w, expert, span, out);
  }
}

}  // namespace tribody::TRIBODY_ISA
