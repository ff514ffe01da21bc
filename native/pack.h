// Encoding weights into panels, and decoding rows of a table.
#pragma once

#include "linear.h"

namespace tribody {

struct PackCall {
  const float* weights;  // (E, N, K), contiguous
  MatrixView to;
  uint8_t* data;  // to.data, writable
};

struct EmbedCall {
  MatrixView table;
  const int32_t* ids;  // every id in [0, V)
  int64_t count;
  float* out;
  int64_t stride;
};

}  // namespace tribody

#define TRIBODY_PACK_KERNELS     \
  void pack(const PackCall& call); \
  void embed(const EmbedCall& call);
TRIBODY_IN_EACH_ISA(TRIBODY_PACK_KERNELS)
