// RMSNorm.
#include "norm.h"

#include "simd.h"

namespace tribody::TRIBODY_ISA {
namespace {

// Floats below which a step's rows are not worth a second thread: 4096 take about 1 us.
constexpr int64_t kSerialFloats = 8192;
constexpr int64_t kRowsPerChunk = 8;

}  // namespace

void normalize_row(const float* x, const Norm& norm, int64_t columns, float* out) {
  F32x8 low = F32x8::zero(), high = F32x8::zero();
  int64_t i = 0;
  for (; i + 16 <= columns; i += 16) {
    const F32x8 a = F32x8::load(x + i), b = F32x8::load(x + i + 8);
    low = fma(a, a, low);
    high = fma(b, b, high);
  }
  for (; i < columns; i += 8) {
    const int64_t left = columns - i;
    const F32x8 a = load_first(x + i, left < 8 ? left : 8);
    low = fma(a, a, low);
  }
  const float mean = sum(low + high) / static_cast<float>(columns);
  const F32x8 inverse = F32x8::broadcast(1.0f / __builtin_sqrtf(mean + norm.eps));
  for (i = 0; i + 8 <= columns; i += 8) {
    (F32x8::load(x + i) * inverse * F32x8::load(norm.weight + i)).store(out + i);
  }
  if (i < columns) {
    const int64_t left = columns - i;
    store_first(load_first(x + i, left) * inverse * load_first(norm.weight + i, left), out + i,
                left);
  }
}

void rms_norm(const Rows& x, const Norm& norm, int64_t columns, float* out, int64_t out_stride) {
  const bool serial = x.count * columns <= kSerialFloats;
  const int64_t per_chunk = serial ? x.count : kRowsPerChunk;
  if (x.count == 0) return;
  parallel_for((x.count + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t first = chunk * per_chunk;
    const int64_t end = first + per_chunk < x.count ? first + per_chunk : x.count;
    for (int64_t row = first; row < end; ++row) {
      normalize_row(x.data + row * x.stride, norm, columns, out + row * out_stride);
    }
  });
}

}  // namespace tribody::TRIBODY_ISA
