// What the register tiles of linear_int.cc and linear_float.cc share: storing sums, and fetching
// panels ahead.
#pragma once

#include "linear.h"
#include "simd.h"

namespace tribody::TRIBODY_ISA {

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

// The same of sixteen outputs.
TRIBODY_INLINE void store_sixteen(F32x16 sums, const Output& out, int64_t row, int64_t n,
                                  int64_t valid) {
  if (valid < 16) {
    store_eight(low_half(sums), out, row, n, valid);
    store_eight(high_half(sums), out, row, n + 8, valid - 8);
    return;
  }
  if (out.bias != nullptr) sums = sums + F32x16::load(out.bias + n);
  if (out.residual != nullptr) {
    sums = sums + F32x16::load(out.residual + row * out.residual_stride + n);
  }
  sums.store(out.data + row * out.stride + n);
}

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

}  // namespace tribody::TRIBODY_ISA
