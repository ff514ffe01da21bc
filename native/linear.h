// y = x W^T: what callers of native/linear.cc see.
//
// Every output element is accumulated by one lane in the order of K (linear_int.cc and
// linear_float.cc say how).  Neither the number of rows nor threads nor tiles change that order, so a
// row's result is bit-identical in any batch, and on any instruction set.
#pragma once

#include "isa.h"
#include "matrix.h"
#include "threads.h"
#include "tunables.h"

namespace tribody {

// Rows of float32 activations.
struct Rows {
  const float* data;
  int64_t stride;  // floats between rows
  int64_t count;
};

// What a matrix multiplies: for float formats the rows as they are (or those that `index` picks),
// for formats that take A8 their codes in row tiles.  Refers to the caller's memory or scratch.
//
// A row tile holds `height` rows, interleaved by group, so that one pointer walks all of them:
// code of (row, group, i) at ((row / height * groups + group) * height + row % height) * 32 + i,
// scale at the same place without the 32.  height is tile_height(count); rows that only fill the
// last tile up hold anything and reach no output.
struct Activations {
  int64_t count = 0;
  int64_t columns = 0;
  const float* values = nullptr;
  int64_t stride = 0;
  const int32_t* index = nullptr;  // row i is values + index[i] * stride; null = i
  int8_t* codes = nullptr;
  A8Scale* scales = nullptr;
  int64_t groups = 0;
  int64_t height = 1;
};

inline constexpr int64_t kRowTile = 8;  // eight int32 accumulators leave half of AVX2's registers
inline constexpr int64_t kTallTile = 16;  // the rows of an AMX tile

inline constexpr int64_t tile_height(int64_t count) {
  return count <= 1 ? 1 : count <= kRowTile ? kRowTile : kTallTile;
}

// Rows that the tiles of `count` rows hold.
inline constexpr int64_t tiled_rows(int64_t count) {
  const int64_t height = tile_height(count);
  return (count + height - 1) / height * height;
}

// Where the product goes: data[row * stride + n].  bias (N), then the residual row are added when
// they are not null; residual may be data.
struct Output {
  float* data;
  int64_t stride;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
};

struct Norm {
  const float* weight = nullptr;  // (K); null = no normalisation
  float eps = 0;
};

struct LinearCall {
  Rows x;
  Norm norm;
  MatrixView weights;
  Output out;
};

// A rectangle of a product: rows [first_row, end_row) by panels [first_panel, end_panel).
struct Span {
  int64_t first_row, end_row, first_panel, end_panel;
};

inline constexpr int64_t num_groups(int64_t columns) { return (columns + kGroup - 1) / kGroup; }

}  // namespace tribody

// linear: the whole operator, parallel.  prepare: norm and A8 of all rows into scratch, parallel.
// The others run on the caller, for operators that compose them:
//   activations_for: of the right shape for `x` against `w`, with scratch for the codes when w takes
//     A8; else x's own values.  Codes serve every format that takes A8.
//   quantize_rows: fills the codes and scales of rows [first, end); nothing when `to` has no codes.
//   quantize_groups: the same for groups [first_group, end_group) of one row, `values` being where
//     the first of these groups starts.
//   multiply: a span of the product with one expert's matrix.  With A8 span.first_row must be a
//     multiple of kTallTile.  multiply_int and multiply_float are its two halves.
//   units_per_chunk: how many pieces of work of unit_macs each make one chunk of a parallel_for.
#define TRIBODY_LINEAR_KERNELS                                                                    \
  void linear(const LinearCall& call);                                                            \
  Activations prepare(const Rows& x, const Norm& norm, const MatrixView& w);                      \
  Activations activations_for(const Rows& x, const MatrixView& w, Scratch codes, Scratch scales); \
  void quantize_rows(const Rows& x, int64_t first, int64_t end, const Activations& to);           \
  void quantize_groups(const float* values, int64_t row, int64_t first_group, int64_t end_group,  \
                       const Activations& to);                                                    \
  void multiply(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,      \
                const Output& out);                                                               \
  void multiply_int(const Activations& x, const MatrixView& w, int64_t expert, const Span& span,  \
                    const Output& out);                                                           \
  void multiply_float(const Activations& x, const MatrixView& w, int64_t expert,                  \
                      const Span& span, const Output& out);                                       \
  int64_t units_per_chunk(int64_t total_macs, int64_t unit_macs);
TRIBODY_IN_EACH_ISA(TRIBODY_LINEAR_KERNELS)
