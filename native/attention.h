// Attention over pages: what the bindings fill in and the kernels take.  All pointers and sizes
// have been checked; kernels cannot fail except for want of memory.
#pragma once

#include <cstdint>

#include "isa.h"

namespace tribody {

inline constexpr int64_t kPage = 64;  // positions in a page, core/config.py PAGE_SIZE

using Half = uint16_t;  // the bits of a float16

// The largest head (GQA) or rope part (MLA): rotation copies one to the stack.  Known models have
// 256 and 64.
inline constexpr int64_t kMaxHeadDim = 1024;

// A float32 array of two axes: `stride` floats from one row to the next, a row's elements adjacent.
template <typename T>
struct Array2 {
  T* data;
  int64_t stride;

  T* row(int64_t index) const { return data + index * stride; }
};

// Which rows belong to which sequence (ops/table.py AttentionBatch).  Page ids of all positions
// that the rows attend to are inside the pages.
struct Batch {
  int64_t num_sequences;
  const int32_t* row_starts;   // (B + 1,)
  const int32_t* starts;       // (B,)
  const int32_t* page_tables;  // (B, table_length)
  int64_t table_length, table_stride;

  int64_t rows(int64_t b) const { return row_starts[b + 1] - row_starts[b]; }
  const int32_t* table(int64_t b) const { return page_tables + b * table_stride; }
};

struct RopeCall {
  Array2<float> qkv;  // (T, (Hq + 2 Hkv) D)
  int64_t rows, num_heads, num_kv_heads, head_dim;
  Array2<const float> cos, sin;       // (T, D / 2)
  const float *q_weight, *k_weight;  // (D,), or both nullptr
  float eps;
  const int64_t* slots;  // (T,)
  void *k_pages, *v_pages;
  bool half;  // the pages are float16
};

// What attends: rows that rope_store has rotated and stored, or is to, where `rope` is not null.
struct AttendCall {
  const RopeCall* rope;
  Array2<const float> q;  // the first Hq D columns
  int64_t num_heads, num_kv_heads, head_dim;
  const void *k_pages, *v_pages;  // (P, Hkv, D, 64), (P, Hkv, 64, D)
  bool half;
  Batch batch;
  float scale;
  Array2<float> out;
};

struct MlaStoreCall {
  Array2<float> q;  // (T, H (Dn + Dr))
  int64_t rows, num_heads, nope, rope;
  Array2<const float> kv_a;  // (T, R + Dr)
  const float* norm;       // (R,)
  int64_t rank;
  float eps;
  Array2<const float> cos, sin;  // (T, Dr / 2)
  bool interleaved;
  const int64_t* slots;
  void* pages;  // (P, 64, R + Dr)
  bool half;
};

struct MatrixView;

struct MlaAttendCall {
  Array2<const float> q;  // (T, H (Dn + Dr))
  int64_t rows, num_heads, nope, rope, rank, value_dim;
  const MatrixView *w_uk, *w_uv;  // absorbed: (H, R, Dn), (H, Dv, R)
  const MatrixView* kv_b;         // expanded: (H (Dn + Dv), R)
  const void* pages;              // (P, 64, R + Dr)
  bool half;
  Batch batch;
  float scale;
  Array2<float> out;  // (T, H Dv)
};

}  // namespace tribody

// rope_store_group: the heads of one key-value head, of one row, on the caller.
#define TRIBODY_ATTENTION_KERNELS                                   \
  void rope_store(const ::tribody::RopeCall& call);                 \
  void rope_store_group(const ::tribody::RopeCall& call,            \
                        int64_t row, int64_t group);                \
  void attend(const ::tribody::AttendCall& call);                   \
  void mla_store(const ::tribody::MlaStoreCall& call);              \
  void mla_attend_absorbed(const ::tribody::MlaAttendCall& call);   \
  void mla_attend_expanded(const ::tribody::MlaAttendCall& call);
TRIBODY_IN_EACH_ISA(TRIBODY_ATTENTION_KERNELS)
