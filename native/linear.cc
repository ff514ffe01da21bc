// y = x W^T over packed panels: GEMV and GEMM are one loop, with one to eight rows per tile.
#include "linear.h"

#include "norm.h"
#include "simd_int8.h"

namespace tribody::TRIBODY_ISA {
namespace {

TRIBODY_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TRIBODY_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
TRIBODY_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- storing -------------------------------------------------------------------------------------

// Eight outputs of one row, starting at column n; `valid` of them exist.
TRIBODY_INLINE void store_eight(F32x8 sums, const Output& out, int64_t row, int64_t n,
                                int64_t valid) {
  float* y = out.data + row * out.stride + n;
  const float* residual =
      out.residual == nullptr ? nullptr : out.residual + row * out.residual_stride + n;
  if (valid >= 8) {
    if (out.bias != nullptr) sums = sums + F32x8::load(out.bias + n);
    if (residual != nullptr) sums = sums + F32x8::load(residual);
    sums.store(y);
  } else if (valid > 0) {
    if (out.bias != nullptr) sums = sums + load_first(out.bias + n, valid);
    if (residual != nullptr) sums = sums + load_first(residual, valid);
    store_first(sums, y, valid);
  }
}

// ---- fetching ahead ------------------------------------------------------------------------------

// Panels follow each other in memory, and while one is computed the next one is fetched into L2:
// the hardware's own prefetcher stops at every 4 KB page, and the arithmetic of eight rows leaves it
// little to see.  Measured on a Xeon (Emerald Rapids, one thread, 135M w8g32 weights from L3 and
// memory, bench/kernels.py, step): 10.6 -> 8.1 ms at one row, 16.7 -> 10.9 ms at eight.
template <int64_t Bytes>
TRIBODY_INLINE void fetch(const void* ahead) {
  for (int64_t line = 0; line < Bytes; line += 64) {
    __builtin_prefetch(static_cast<const char*>(ahead) + line, 0, 2);
  }
}

// ---- w8g32 ---------------------------------------------------------------------------------------

// Per group of 32: an exact int32 sum, then one fma with the product of both scales.  The first row
// tile of a panel fetches the panels that follow.
template <class Panels, int M, int H>
void int8_tile(const W8G32Tile* tile, int64_t next, const Activations& x, int64_t row,
               const Output& out, int64_t n, int64_t num_rows, bool is_first) {
  typename Panels::Float sums[M];
  for (int m = 0; m < M; ++m) sums[m] = Panels::Float::zero();
  const int8_t* codes = x.codes + row / H * x.groups * (H * kGroup);
  const A8Scale* scales = x.scales + row / H * x.groups * H;
  const W8G32Tile* ahead = tile + Panels::kPanels * next;
  for (int64_t g = 0; g < x.groups; ++g) {
    if (is_first) fetch<Panels::kPanels * sizeof(W8G32Tile)>(ahead + Panels::kPanels * g);
    typename Panels::Int dots[M];
    Panels::template dot<M>(tile, next, codes, scales, dots);
    const typename Panels::Float weight_scales = Panels::weight_scales(tile, next);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const auto scale = weight_scales * Panels::Float::broadcast(scales[m].scale);
      sums[m] = fma(Panels::to_float(dots[m]), scale, sums[m]);
    }
    ++tile;
    codes += H * kGroup;
    scales += H;
  }
  for (int p = 0; p < Panels::kPanels; ++p) {
    for (int m = 0; m < M; ++m) {
      store_eight(Panels::part(sums[m], p), out, row + m, n + 8 * p, num_rows - n - 8 * p);
    }
  }
}

template <class Panels>
TRIBODY_INLINE void int8_rows(int64_t m, const W8G32Tile* tile, int64_t next, const Activations& x,
                              int64_t row, const Output& out, int64_t n, int64_t num_rows,
                              bool is_first) {
  switch (m) {
    case 1: return int8_tile<Panels, 1, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 2: return int8_tile<Panels, 2, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 3: return int8_tile<Panels, 3, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 4: return int8_tile<Panels, 4, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 5: return int8_tile<Panels, 5, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 6: return int8_tile<Panels, 6, 8>(tile, next, x, row, out, n, num_rows, is_first);
    case 7: return int8_tile<Panels, 7, 8>(tile, next, x, row, out, n, num_rows, is_first);
    default: return int8_tile<Panels, 8, 8>(tile, next, x, row, out, n, num_rows, is_first);
  }
}

template <class Panels>
TRIBODY_INLINE void int8_panels(const Activations& x, const MatrixView& w, const uint8_t* data,
                                int64_t panel, const Span& span, const Output& out) {
  const auto* tile = reinterpret_cast<const W8G32Tile*>(data);
  const int64_t n = panel * kPanelRowsW8;
  if (x.height == 1) {
    int8_tile<Panels, 1, 1>(tile, x.groups, x, 0, out, n, w.rows, true);
    return;
  }
  for (int64_t row = span.first_row; row < span.end_row; row += kRowTile) {
    int8_rows<Panels>(span.end_row - row, tile, x.groups, x, row, out, n, w.rows,
                      row == span.first_row);
  }
}

void multiply_int8(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                   const Output& out) {
  int64_t panel = span.first_panel;
#if TRIBODY_AVX512
  for (; panel + 2 <= span.end_panel; panel += 2) {
    int8_panels<TwoPanels>(x, w, w.panel(expert, panel), panel, span, out);
  }
#endif
  for (; panel < span.end_panel; ++panel) {
    int8_panels<OnePanel>(x, w, w.panel(expert, panel), panel, span, out);
  }
}

// ---- float formats -------------------------------------------------------------------------------

template <WeightFormat F>
TRIBODY_INLINE F32x16 load_weights(const uint8_t* p) {
  if constexpr (F == WeightFormat::float32) return F32x16::load(reinterpret_cast<const float*>(p));
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  if constexpr (F == WeightFormat::bfloat16) return F32x16::load_bfloat16(bits);
  return F32x16::load_half(bits);
}

TRIBODY_INLINE void store_sixteen(F32x16 sums, const Output& out, int64_t row, int64_t n,
                                  int64_t valid) {
  float lanes[16];
  sums.store(lanes);
  store_eight(F32x8::load(lanes), out, row, n, valid);
  store_eight(F32x8::load(lanes + 8), out, row, n + 8, valid - 8);
}

// M rows by P panels: one fma per column and element, in the order of K.  M * P chains hide the
// latency of fma (4 cycles at two per cycle: eight registers of sums).
template <WeightFormat F, int M, int P>
void float_tile(const uint8_t* panel, int64_t panel_stride, const Activations& x, int64_t row,
                const Output& out, int64_t n, int64_t num_rows, bool is_first) {
  constexpr int64_t kStep = kPanelRowsFloat * bytes_per_float(F);
  const float* values[M];
  for (int m = 0; m < M; ++m) {
    values[m] = x.values + (x.index == nullptr ? row + m : x.index[row + m]) * x.stride;
  }
  F32x16 sums[M][P];
  for (int m = 0; m < M; ++m) {
    for (int p = 0; p < P; ++p) sums[m][p] = F32x16::zero();
  }
  for (int64_t k = 0; k < x.columns; ++k) {
    F32x16 weights[P];
    for (int p = 0; p < P; ++p) {
      const uint8_t* place = panel + p * panel_stride + k * kStep;
      if (is_first) fetch<1>(place + P * panel_stride);
      weights[p] = load_weights<F>(place);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F32x16 value = F32x16::broadcast(values[m][k]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sums[m][p] = fma(weights[p], value, sums[m][p]);
    }
  }
  for (int p = 0; p < P; ++p) {
    const int64_t column = n + p * kPanelRowsFloat;
    for (int m = 0; m < M; ++m) store_sixteen(sums[m][p], out, row + m, column, num_rows - column);
  }
}

// Registers of sums: eight rows of one 512-bit register, or four rows of two 256-bit ones.
constexpr int kFloatRows = TRIBODY_AVX512 ? 8 : 4;

template <WeightFormat F, int P>
TRIBODY_INLINE void float_panels(const Activations& x, const MatrixView& w, const uint8_t* data,
                                 int64_t n, const Span& span, const Output& out) {
  const int64_t stride = w.bytes_per_panel();
  int64_t row = span.first_row;
  while (row < span.end_row) {
    const int64_t left = span.end_row - row;
    const bool is_first = row == span.first_row;
    if (kFloatRows == 8 && left >= 8 && P == 1) {
      float_tile<F, 8, 1>(data, stride, x, row, out, n, w.rows, is_first);
      row += 8;
    } else if (left >= 4 && P <= 2) {
      float_tile<F, 4, P <= 2 ? P : 1>(data, stride, x, row, out, n, w.rows, is_first);
      row += 4;
    } else if (left >= 2) {
      float_tile<F, 2, P>(data, stride, x, row, out, n, w.rows, is_first);
      row += 2;
    } else {
      float_tile<F, 1, P>(data, stride, x, row, out, n, w.rows, is_first);
      row += 1;
    }
  }
}

template <WeightFormat F>
void multiply_float(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
                    const Output& out) {
  const int64_t count = span.end_row - span.first_row;
  int64_t panel = span.first_panel;
  const int64_t together = count <= 2 ? 4 : (kFloatRows == 8 && count < 8) ? 2 : 1;
  if (together == 4) {
    for (; panel + 4 <= span.end_panel; panel += 4) {
      float_panels<F, 4>(x, w, w.panel(expert, panel), panel * kPanelRowsFloat, span, out);
    }
  } else if (together == 2) {
    for (; panel + 2 <= span.end_panel; panel += 2) {
      float_panels<F, 2>(x, w, w.panel(expert, panel), panel * kPanelRowsFloat, span, out);
    }
  }
  for (; panel < span.end_panel; ++panel) {
    float_panels<F, 1>(x, w, w.panel(expert, panel), panel * kPanelRowsFloat, span, out);
  }
}

// ---- A8 ------------------------------------------------------------------------------------------

// Below this a group's inverse scale overflows float32; it is stored as zeros (quantize.quantize_a8).
constexpr float kSmallestMagnitude = 1e-36f;

// 32 floats to bytes and a scale.  A group with Inf or NaN keeps that in its scale.
TRIBODY_INLINE void quantize_group(const float* x, int8_t* codes, A8Scale* to) {
  const float most = largest_magnitude(x);
  if (most > kSmallestMagnitude && is_finite(most)) {
    to->scale = most / 127.0f;
    to->start = -128 * round_to_bytes(x, 127.0f / most, codes);
  } else {
    *to = {is_finite(most) ? 0.0f : most, 0};
    memset(codes, 0, kGroup);
  }
}

}  // namespace

Activations activations_for(const Rows& x, const MatrixView& w, Scratch codes, Scratch scales) {
  Activations to;
  to.count = x.count;
  to.columns = w.columns;
  to.values = x.data;
  to.stride = x.stride;
  if (w.format == WeightFormat::w8g32) {
    to.groups = num_groups(w.columns);
    to.height = x.count > 1 ? kRowTile : 1;
    const int64_t places = divide_up(x.count, to.height) * to.height * to.groups;
    to.codes = scratch<int8_t>(codes, places * kGroup);
    to.scales = scratch<A8Scale>(scales, places);
  }
  return to;
}

void quantize_groups(const float* values, int64_t row, int64_t first_group, int64_t end_group,
                     const Activations& to) {
  const int64_t tile = row / to.height * to.groups, line = row % to.height;
  for (int64_t g = first_group; g < end_group; ++g) {
    const int64_t place = (tile + g) * to.height + line;
    const float* group = values + (g - first_group) * kGroup;
    const int64_t left = to.columns - g * kGroup;
    float padded[kGroup];
    if (left < kGroup) {
      memset(padded, 0, sizeof padded);
      memcpy(padded, group, static_cast<size_t>(left) * sizeof(float));
      group = padded;
    }
    quantize_group(group, to.codes + place * kGroup, to.scales + place);
  }
}

void quantize_rows(const Rows& x, int64_t first, int64_t end, const Activations& to) {
  if (to.codes == nullptr) return;
  for (int64_t row = first; row < end; ++row) {
    quantize_groups(x.data + row * x.stride, row, 0, to.groups, to);
  }
}

Activations prepare(const Rows& x, const Norm& norm, const MatrixView& w) {
  Rows source = x;
  if (norm.weight != nullptr) {
    float* normalized = scratch<float>(Scratch::normalized, x.count * w.columns);
    source = {normalized, w.columns, x.count};
  }
  const Activations to = activations_for(source, w, Scratch::codes, Scratch::scales);
  if (norm.weight == nullptr && to.codes == nullptr) return to;
  // A row of 576 takes about 0.3 us, so eight are worth the hand-over to another thread.
  parallel_for(divide_up(x.count, kRowTile), [&](int64_t chunk) {
    const int64_t first = chunk * kRowTile, end = smaller(x.count, first + kRowTile);
    if (norm.weight != nullptr) {
      for (int64_t row = first; row < end; ++row) {
        normalize_row(x.data + row * x.stride, norm, w.columns,
                      const_cast<float*>(source.data) + row * source.stride);
      }
    }
    quantize_rows(source, first, end, to);
  });
  return to;
}

void multiply(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,
              const Output& out) {
  switch (w.format) {
    case WeightFormat::float32:
      return multiply_float<WeightFormat::float32>(x, w, expert, span, out);
    case WeightFormat::bfloat16:
      return multiply_float<WeightFormat::bfloat16>(x, w, expert, span, out);
    case WeightFormat::float16:
      return multiply_float<WeightFormat::float16>(x, w, expert, span, out);
    case WeightFormat::w8g32: return multiply_int8(x, w, expert, span, out);
  }
}

int64_t units_per_chunk(int64_t total_macs, int64_t unit_macs) {
  const int64_t target = larger(kSmallestChunkMacs, total_macs / (8 * num_threads()));
  return larger(1, target / larger(1, unit_macs));
}

void linear(const LinearCall& call) {
  const MatrixView& w = call.weights;
  if (call.x.count == 0 || w.rows == 0) return;
  const Activations x = prepare(call.x, call.norm, w);
  const int64_t count = call.x.count, rows = smaller(count, kRowsPerChunk);
  const int64_t num_panels = w.num_panels(), row_chunks = divide_up(count, rows);
  const int64_t unit = 2 * panel_rows(w.format) * rows * w.columns;  // two panels
  const int64_t per_chunk = 2 * units_per_chunk(count * w.rows * w.columns, unit);
  parallel_for(divide_up(num_panels, per_chunk) * row_chunks, [&](int64_t chunk) {
    const int64_t row = chunk % row_chunks * rows, panel = chunk / row_chunks * per_chunk;
    const Span span{row, smaller(count, row + rows), panel, smaller(num_panels, panel + per_chunk)};
    multiply(x, w, 0, span, call.out);
  });
}

}  // namespace tribody::TRIBODY_ISA
