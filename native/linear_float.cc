// Products of float weights with float32 activations: float32, bfloat16, float16 and fp8b.
//
// One fma per column and element, in the order of K.  fp8b sums each 128 columns by themselves and
// adds them with one fma, times their scale.
#include <type_traits>

#include "linear_tile.h"

namespace tribody::TRIBODY_ISA {
namespace {

// One column of sixteen rows; of fp8b, its values times 2^-8.
template <WeightFormat F>
TRIBODY_INLINE F32x16 load_weights(const uint8_t* p) {
  if constexpr (F == WeightFormat::fp8b) return F32x16::load_e4m3(p);
  if constexpr (F == WeightFormat::float32) return F32x16::load(reinterpret_cast<const float*>(p));
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  if constexpr (F == WeightFormat::bfloat16) return F32x16::load_bfloat16(bits);
  return F32x16::load_half(bits);
}

// Bytes of one column of a panel.
constexpr int64_t column_bytes(WeightFormat format) {
  return format == WeightFormat::fp8b ? kPanelRowsFloat : layout_of(format).tile_bytes;
}

// Panels that follow each other in memory, and what is fetched meanwhile: as many bytes from `ahead`
// on, or nothing where it is null.
struct Panels {
  const uint8_t* data;
  const uint8_t* ahead;
  int64_t stride;

  TRIBODY_INLINE void skip(int64_t bytes) {
    data += bytes;
    if (ahead != nullptr) ahead += bytes;
  }
};

// sums += columns [0, count) of P panels times M rows.  M * P chains hide the latency of fma (4
// cycles at two per cycle: eight registers of sums).
template <WeightFormat F, int M, int P>
TRIBODY_INLINE void add_columns(const Panels& panels, const float* const (&values)[M],
                                int64_t count, F32x16 (&sums)[M][P]) {
  constexpr int64_t kStep = column_bytes(F);
  constexpr int64_t kFetchEvery = F == WeightFormat::fp8b ? 64 / kStep : 1;  // a cache line
  for (int64_t k = 0; k < count; ++k) {
    F32x16 weights[P];
    for (int p = 0; p < P; ++p) {
      const int64_t place = p * panels.stride + k * kStep;
      if (panels.ahead != nullptr && k % kFetchEvery == 0) fetch<1>(panels.ahead + place);
      weights[p] = load_weights<F>(panels.data + place);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F32x16 value = F32x16::broadcast(values[m][k]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sums[m][p] = fma(weights[p], value, sums[m][p]);
    }
  }
}

template <int M, int P>
TRIBODY_INLINE void clear(F32x16 (&sums)[M][P]) {
  for (int m = 0; m < M; ++m) {
    for (int p = 0; p < P; ++p) sums[m][p] = F32x16::zero();
  }
}

// The same for all columns of fp8b, tile by tile.  The scale takes back the 2^-8 of the codes.
template <int M, int P>
TRIBODY_INLINE void add_fp8_tiles(Panels panels, const float* (&values)[M], int64_t columns,
                                  F32x16 (&sums)[M][P]) {
  for (int64_t k = 0; k < columns; k += kFp8Columns, panels.skip(sizeof(Fp8BTile))) {
    const int64_t left = columns - k;
    F32x16 part[M][P];
    clear(part);
    add_columns<WeightFormat::fp8b, M, P>(panels, values, left < kFp8Columns ? left : kFp8Columns,
                                          part);
    for (int p = 0; p < P; ++p) {
      const auto* tile = reinterpret_cast<const Fp8BTile*>(panels.data + p * panels.stride);
      const F32x16 scale = F32x16::load(tile->scales) * F32x16::broadcast(256.0f);
      for (int m = 0; m < M; ++m) sums[m][p] = fma(part[m][p], scale, sums[m][p]);
    }
    for (int m = 0; m < M; ++m) values[m] += kFp8Columns;
  }
}

// M rows by P panels.
template <WeightFormat F, int M, int P>
void float_tile(const Panels& panels, const Activations& x, int64_t row, const Output& out,
                int64_t n, int64_t num_rows) {
  const float* values[M];
  for (int m = 0; m < M; ++m) {
    values[m] = x.values + (x.index == nullptr ? row + m : x.index[row + m]) * x.stride;
  }
  F32x16 sums[M][P];
  clear(sums);
  if constexpr (F == WeightFormat::fp8b) {
    add_fp8_tiles<M, P>(panels, values, x.columns, sums);
  } else {
    add_columns<F, M, P>(panels, values, x.columns, sums);
  }
  for (int p = 0; p < P; ++p) {
    const int64_t column = n + p * kPanelRowsFloat;
    for (int m = 0; m < M; ++m) store_sixteen(sums[m][p], out, row + m, column, num_rows - column);
  }
}

// Registers of sums: eight rows of one 512-bit register, or four rows of two 256-bit ones.
constexpr int kFloatRows = TRIBODY_AVX512 ? 8 : 4;

template <WeightFormat F, int P>
TRIBODY_INLINE void float_panels(const Activations& x, const MatrixView& w, Panels panels,
                                 int64_t n, const Span& span, const Output& out) {
  int64_t row = span.first_row;
  for (; row < span.end_row; panels.ahead = nullptr) {  // the first rows fetch
    const int64_t left = span.end_row - row;
    if (kFloatRows == 8 && left >= 8 && P == 1) {
      float_tile<F, 8, 1>(panels, x, row, out, n, w.rows);
      row += 8;
    } else if (left >= 4 && P <= 2) {
      float_tile<F, 4, P <= 2 ? P : 1>(panels, x, row, out, n, w.rows);
      row += 4;
    } else if (left >= 2) {
      float_tile<F, 2, P>(panels, x, row, out, n, w.rows);
      row += 2;
    } else {
      float_tile<F, 1, P>(panels, x, row, out, n, w.rows);
      row += 1;
    }
  }
}

template <WeightFormat F>
void multiply_format(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                    const Output& out) {
  const int64_t count = span.end_row - span.first_row, stride = w.bytes_per_panel();
  const uint8_t* first = w.panel(expert, 0);
  int64_t panel = span.first_panel;
  const auto multiply_panels = [&](auto together) {
    constexpr int P = decltype(together)::value;
    for (; panel + P <= span.end_panel; panel += P) {
      const uint8_t* data = first + panel * stride;
      // Fetched meanwhile: the panels that follow or, where the thread's share ends, what comes
      // after the region.
      const uint8_t* later =
          panel + P < span.end_panel ? nullptr : reading_after_share(P * stride);
      const Panels panels{data, later == nullptr ? data + P * stride : later, stride};
      float_panels<F, P>(x, w, panels, panel * kPanelRowsFloat, span, out);
    }
  };
  if (count <= 2) multiply_panels(std::integral_constant<int, 4>());
  if (count <= 2 || (kFloatRows == 8 && count < 8)) {
    multiply_panels(std::integral_constant<int, 2>());
  }
  multiply_panels(std::integral_constant<int, 1>());
}

}  // namespace

void multiply_float(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                    const Output& out) {
  switch (w.format) {
    case WeightFormat::float32:
      return multiply_format<WeightFormat::float32>(x, w, expert, span, out);
    case WeightFormat::bfloat16:
      return multiply_format<WeightFormat::bfloat16>(x, w, expert, span, out);
    case WeightFormat::float16:
      return multiply_format<WeightFormat::float16>(x, w, expert, span, out);
    default: return multiply_format<WeightFormat::fp8b>(x, w, expert, span, out);
  }
}

}  // namespace tribody::TRIBODY_ISA
