// y = x W^T: what callers of native/linear.cc see.
//
// Every output element is accumulated by one lane in the order of K (fma per column for the float
// formats; an exact int32 sum per group of 32 and one fma per group for w8g32).  Neither the number
// of rows nor threads nor tiles change that order, so a row's result is bit-identical in any batch.
#pragma once

#include "isa.h"
#include "matrix.h"

namespace tribody {

// Rows of float32 activations.  `index`, if not null, picks row index[i] for i.
struct Rows {
  const float* data;
  int64_t stride;  // floats between rows
  int64_t count;
};

// What a matrix multiplies: the rows as they are for float formats, or their A8 codes for w8g32.
// Made by `prepare`; refers to the caller's memory.
struct Activations {
  const float* values = nullptr;
  int64_t stride = 0;              // floats between rows of values
  const int8_t* codes = nullptr;   // (count, groups * 32); the encoding is linear.cc's own
  const float* scales = nullptr;   // (count, groups)
  int64_t groups = 0;
  const int32_t* index = nullptr;  // row i of the product is row index[i] here; null = i
};

// Where the product goes.  bias (N) and residual rows are added in this order when not null;
// residual may be out.
struct Output {
  float* data;
  int64_t stride;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
};

struct LinearCall {
  Rows x;
  const float* norm = nullptr;  // rms_norm's weight (K), or null for none
  float eps = 0;
  MatrixView weights;
  Output out;
};

struct MlpCall {
  float* x;  // (T, H), in place
  int64_t stride;
  int64_t count;
  const float* norm;
  float eps;
  MatrixView gate_up;
  MatrixView down;
};

inline int64_t num_groups(int64_t columns) { return (columns + kGroup - 1) / kGroup; }

}  // namespace tribody

// linear, norm_mlp: whole operators, parallel.
// codes_bytes, quantize_rows, multiply: for kernels that compose them; each runs on the caller.
//   quantize_rows: A8 of rows [0, x.count) into codes (count * groups * 32) and scales.
//   multiply: product rows [first_row, end_row) x panels [first_panel, end_panel) of one expert.
#define TRIBODY_LINEAR_KERNELS                                                                  \
  void linear(const LinearCall& call);                                                          \
  void norm_mlp(const MlpCall& call);                                                           \
  void quantize_rows(const Rows& x, int64_t columns, int8_t* codes, float* scales);             \
  void multiply(const Activations& x, int64_t first_row, int64_t end_row, const MatrixView& w,  \
                int64_t expert, int64_t first_panel, int64_t end_panel, const Output& out);
TRIBODY_IN_EACH_ISA(TRIBODY_LINEAR_KERNELS)
