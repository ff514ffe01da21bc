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
// NEON's sums are in int_sums_neon.h.
#include "int_formats.h"
#include "linear_tile.h"

#if TRIBODY_NEON
#include "int_sums_neon.h"
#endif

namespace tribody::TRIBODY_ISA {
namespace {

// ---- where the numbers of a panel come from -------------------------------------------------------

// One panel, or two neighbouring ones, as they lie in memory: unpacked wherever they are used.
template <class F, class P>
struct Packed {
  using Format = F;
  using Width = P;
  using Tile = typename F::Tile;

  Packed(const uint8_t* panel, int64_t to_next)
      : tiles(reinterpret_cast<const Tile*>(panel + layout_of(F::kFormat).header_bytes)),
        next(to_next),
        ahead(panel + P::kPanels * to_next),
        weigh(panel, to_next) {}

  TRIBODY_INLINE typename P::Bytes step(int64_t g, int s) const {
    return F::template step<P>(tiles + g, next, s);
  }
  TRIBODY_INLINE typename P::Float scale(int64_t g) const { return weigh.of(tiles + g, next); }
  TRIBODY_INLINE typename P::Float minimum(int64_t g) const {
    return weigh.minimum_of(tiles + g, next);
  }
  // The panels that follow: as many bytes of them as group g takes here.
  TRIBODY_INLINE void fetch_ahead(int64_t g) const {
    constexpr int64_t kBytes = P::kPanels * static_cast<int64_t>(sizeof(Tile));
    fetch<kBytes>(ahead + kBytes * g);
  }

  const Tile* tiles;
  int64_t next;  // bytes from one panel to the following
  const uint8_t* ahead;
  typename F::template Scales<P> weigh;
};

template <class P>
struct UnpackedGroup {
  typename P::Bytes steps[kSteps];
  typename P::Float scale, minimum;
};

// The same, unpacked once for many row tiles, in scratch of this thread.
template <class F, class P>
struct Unpacked {
  using Format = F;
  using Width = P;

  Unpacked(const Packed<F, P>& panel, int64_t count) {
    auto* to = scratch<UnpackedGroup<P>>(Scratch::unpacked, count);
    for (int64_t g = 0; g < count; ++g) {
      panel.fetch_ahead(g);
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) to[g].steps[s] = panel.step(g, s);
      to[g].scale = panel.scale(g);
      to[g].minimum = panel.minimum(g);
    }
    groups = to;
  }

  TRIBODY_INLINE typename P::Bytes step(int64_t g, int s) const { return groups[g].steps[s]; }
  TRIBODY_INLINE typename P::Float scale(int64_t g) const { return groups[g].scale; }
  TRIBODY_INLINE typename P::Float minimum(int64_t g) const { return groups[g].minimum; }
  TRIBODY_INLINE void fetch_ahead(int64_t) const {}

  const UnpackedGroup<P>* groups;
};

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

// Rows of W that meet activations: 8 for each panel, from column n of out.
struct PanelTask {
  const Activations& x;
  const Output& out;
  int64_t n;
  int64_t num_rows;  // of W: outputs from here on do not exist
};

// M rows of activations in row tiles of H.  The first row tile of a panel fetches the panels that
// follow.
template <class Source, int M, int H>
TRIBODY_INLINE void int_tile(const Source& source, const PanelTask& task, int64_t row,
                             bool is_first) {
  using P = typename Source::Width;
  using Float = typename P::Float;
  const int64_t groups = task.x.groups;
  const int8_t* codes = task.x.codes + row / H * groups * (H * kGroup);
  const A8Scale* scales = task.x.scales + row / H * groups * H;
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
    codes += H * kGroup;
    scales += H;
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
  int_tile<Source, M, kRowTile>(source, task, row, is_first);
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
TRIBODY_INLINE void int_panels(const uint8_t* panel, int64_t next, const PanelTask& task,
                               const Span& span) {
  const Packed<F, P> packed(panel, next);
  if (task.x.height == 1) return int_tile<Packed<F, P>, 1, 1>(packed, task, 0, true);
  int64_t row = span.first_row;
  if constexpr (F::kUnpacks) {
    if (span.end_row - row >= tunables.unpack_rows) {
      const Unpacked<F, P> unpacked(packed, task.x.groups);
      for (; row + kRowTile <= span.end_row; row += kRowTile) {
        row_tile<Unpacked<F, P>, kRowTile>(unpacked, task, row, false);
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
  PanelTask task{x, out, panel * kPanelRowsInt, w.rows};
  const auto advance = [&](int64_t panels) {
    panel += panels;
    data += panels * next;
    task.n += panels * kPanelRowsInt;
  };
#if TRIBODY_AVX512
  for (; panel + 2 <= span.end_panel; advance(2)) int_panels<F, TwoPanels>(data, next, task, span);
#endif
  for (; panel < span.end_panel; advance(1)) int_panels<F, OnePanel>(data, next, task, span);
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
