// Rotary embedding, the norms that stand beside it, and the writing of keys, values and latents to
// their pages.  Every row and head is computed alone, so nothing depends on the batch.
#include "attention.h"

#include "simd.h"
#include "threads.h"

namespace tribody::TRIBODY_ISA {
namespace {

// Rows of one chunk, and as many more as write to the same page: keys lie transposed, so that all
// rows of a page write to the same lines, which two cores would take from each other.  A row whose
// page is far away takes 3 us.  Measured on a Xeon (Emerald Rapids, two threads, SmolLM2-135M): 8 and
// 16 sequences decode 1.09 times as fast as with all rows on the caller; a prompt of 48 tokens whose
// page is shared takes 1.08 times as long.
constexpr int64_t kChunkRows = 4;

// Dr or D of one head; larger heads are refused by the bindings.
constexpr int64_t kMaxDim = kMaxHeadDim;

TRIBODY_INLINE void put(float* page, float x) { *page = x; }
TRIBODY_INLINE void put(Half* page, float x) { *page = float_to_half(x); }

template <class T>
inline void put_row(T* page, const float* x, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const F32x8 eight = F32x8::load(x + i);
    if constexpr (sizeof(T) == 2) {
      eight.store_half(page + i);
    } else {
      eight.store(page + i);
    }
  }
  for (; i < count; ++i) put(page + i, x[i]);
}

// to = x / sqrt(mean(x^2) + eps) * weight; to may be x.
inline void normalize(const float* x, const float* weight, float eps, int64_t count, float* to) {
  F32x8 squares = F32x8::zero();
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) squares = fma(F32x8::load(x + i), F32x8::load(x + i), squares);
  const F32x8 tail = load_first(x + i, count - i);
  const float mean = sum(fma(tail, tail, squares)) / static_cast<float>(count);
  const float factor = 1.0f / __builtin_sqrtf(mean + eps);
  for (i = 0; i < count; ++i) to[i] = x[i] * factor * weight[i];
}

// Half-split pairs (x[i], x[i + half]); to must not overlap x.
inline void rotate_split(const float* x, const float* cos, const float* sin, int64_t half,
                         float* to) {
  for (int64_t i = 0; i < half; ++i) {
    to[i] = x[i] * cos[i] - x[i + half] * sin[i];
    to[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
  }
}

// Pairs (x[2 i], x[2 i + 1]), written half-split.
inline void rotate_interleaved(const float* x, const float* cos, const float* sin, int64_t half,
                               float* to) {
  for (int64_t i = 0; i < half; ++i) {
    to[i] = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i];
    to[i + half] = x[2 * i + 1] * cos[i] + x[2 * i] * sin[i];
  }
}

// In place through a copy on the stack.
inline void rotate_in_place(float* x, const float* cos, const float* sin, int64_t half,
                            bool interleaved) {
  float copy[kMaxDim];
  memcpy(copy, x, static_cast<size_t>(2 * half) * sizeof(float));
  if (interleaved) {
    rotate_interleaved(copy, cos, sin, half, x);
  } else {
    rotate_split(copy, cos, sin, half, x);
  }
}

// Key-value head `group` of row t and the heads that share it.
template <class T>
void store_group(const RopeCall& call, int64_t t, int64_t group) {
  const int64_t dim = call.head_dim, half = dim / 2, share = call.num_heads / call.num_kv_heads;
  const float *cos = call.cos.row(t), *sin = call.sin.row(t);
  float* q = call.qkv.row(t) + group * share * dim;
  for (int64_t h = 0; h < share; ++h, q += dim) {
    if (call.q_weight != nullptr) normalize(q, call.q_weight, call.eps, dim, q);
    rotate_in_place(q, cos, sin, half, false);
  }
  const float* k = call.qkv.row(t) + (call.num_heads + group) * dim;
  const float* v = k + call.num_kv_heads * dim;
  float normalized[kMaxDim], rotated[kMaxDim];
  if (call.k_weight != nullptr) {
    normalize(k, call.k_weight, call.eps, dim, normalized);
    k = normalized;
  }
  rotate_split(k, cos, sin, half, rotated);
  const int64_t page = call.slots[t] / kPage, offset = call.slots[t] % kPage;
  const int64_t start = (page * call.num_kv_heads + group) * dim * kPage;
  T* k_page = static_cast<T*>(call.k_pages) + start + offset;
  for (int64_t d = 0; d < dim; ++d) put(k_page + d * kPage, rotated[d]);
  put_row(static_cast<T*>(call.v_pages) + start + offset * dim, v, dim);
}

template <class T>
void mla_store_row(const MlaStoreCall& call, int64_t t) {
  const int64_t half = call.rope / 2, width = call.rank + call.rope;
  const float *cos = call.cos.row(t), *sin = call.sin.row(t), *kv_a = call.kv_a.row(t);
  float* q = call.q.row(t) + call.nope;
  for (int64_t h = 0; h < call.num_heads; ++h, q += call.nope + call.rope)
    rotate_in_place(q, cos, sin, half, call.interleaved);
  T* row = static_cast<T*>(call.pages) + call.slots[t] * width;
  float* latent = scratch<float>(Scratch::attention_b, call.rank);
  normalize(kv_a, call.norm, call.eps, call.rank, latent);
  put_row(row, latent, call.rank);
  float rotated[kMaxDim];
  if (call.interleaved) {
    rotate_interleaved(kv_a + call.rank, cos, sin, half, rotated);
  } else {
    rotate_split(kv_a + call.rank, cos, sin, half, rotated);
  }
  put_row(row + call.rank, rotated, call.rope);
}

template <class Body>
void for_rows(const int64_t* slots, int64_t rows, const Body& body) {
  // The first row from t on that does not write to the page of the row before it.
  const auto begin = [&](int64_t t) {
    while (t > 0 && t < rows && slots[t] / kPage == slots[t - 1] / kPage) ++t;
    return t < rows ? t : rows;
  };
  parallel_for((rows + kChunkRows - 1) / kChunkRows, [&](int64_t chunk) {
    const int64_t end = begin((chunk + 1) * kChunkRows);
    for (int64_t t = begin(chunk * kChunkRows); t < end; ++t) body(t);
  });
}

}  // namespace

void rope_store_group(const RopeCall& call, int64_t row, int64_t group) {
  if (call.half) {
    store_group<Half>(call, row, group);
  } else {
    store_group<float>(call, row, group);
  }
}

void rope_store(const RopeCall& call) {
  for_rows(call.slots, call.rows, [&](int64_t t) {
    for (int64_t group = 0; group < call.num_kv_heads; ++group) rope_store_group(call, t, group);
  });
}

void mla_store(const MlaStoreCall& call) {
  if (call.half) {
    for_rows(call.slots, call.rows, [&](int64_t t) { mla_store_row<Half>(call, t); });
  } else {
    for_rows(call.slots, call.rows, [&](int64_t t) { mla_store_row<float>(call, t); });
  }
}

}  // namespace tribody::TRIBODY_ISA
