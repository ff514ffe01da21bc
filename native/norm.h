// RMSNorm.
#pragma once

#include "linear.h"

// normalize_row: out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; out may be x.
//   Squares are summed in sixteen lanes, folded in one fixed order.
// rms_norm: every row of x, parallel; out may be x's data.
#define TRIBODY_NORM_KERNELS                                                              \
  void normalize_row(const float* x, const Norm& norm, int64_t columns, float* out);      \
  void rms_norm(const Rows& x, const Norm& norm, int64_t columns, float* out, int64_t out_stride);
TRIBODY_IN_EACH_ISA(TRIBODY_NORM_KERNELS)
