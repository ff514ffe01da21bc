// Products of sixteen rows of activations with two panels on AMX's tiles.
//
// A tile product (tdpbssd) adds 16 x 16 sums of up to 64 products of signed bytes.  Scales change at
// every group of 32 columns, so a tile is used to half of its depth and its sums pass through memory
// to be weighed: the same exact int32, then the same fma in the same order as everywhere else
// (linear_int.cc), so the bits are the same, too.  Sixteen sums a row fill a register of floats, and
// the results of sixteen rows stay in registers along all of K.
//
// Measured on a Xeon (Emerald Rapids, one thread, cycles for 16 x 16 x 32 products): loading two
// tiles, multiplying and storing 36, weighing 24, both together 57 from L1 and 60 with codes from L2;
// VNNI takes 104.  They hardly overlap, because while tiles are at work floats are multiplied and
// converted on one port of two (48 registers of 512 bits in 46 cycles instead of 24; additions keep
// both), and a tile product and a store of a tile take 16 cycles of the other port each.
//
// What did not help: reading the sums two, four or eight groups later; weighing between the tile
// instructions; two panel pairs at eight rows (storing a tile takes its 16 cycles at any height);
// tdpbf16ps, whose sums are floats already but whose tiles are twice the bytes (67 to 71); sums that
// start at 1.5 * 2^23, so that an addition takes the conversion's place (49 from L1, but 57 with
// codes from L2, and 4 to 8 % slower in place); one loop over all row tiles; unpacking a group at a
// time between the products; fetching the panels that follow during all row tiles evenly.
//
// The instructions are written out: GCC 12's intrinsics lose stores (bench/peers/amx_gcc12.h), and so
// this file needs no compiler flags of its own.  The compiler never touches tiles itself.
#pragma once

#include "int_panels.h"

#if TRIBODY_AVX512

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tribody::TRIBODY_ISA {

// AddressSanitizer does not see what instructions that are written out read and write.
TRIBODY_INLINE void check_memory([[maybe_unused]] const void* data, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  void* bad = __asan_region_is_poisoned(const_cast<void*>(data), size);
  if (bad != nullptr) static_cast<void>(*static_cast<volatile char*>(bad));  // which is reported
#endif
}

// What ldtilecfg reads.  Tile 0: activations, a row of 32 codes in each of its rows.  Tile 1: weights,
// a step in each row, four codes for each of sixteen columns.  Tile 2: sums.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {kGroup, 64, 64};
  uint8_t rows[16] = {kTallTile, kSteps, kTallTile};
};
static_assert(sizeof(TileShapes) == 64);

inline constexpr TileShapes kTileShapes;

TRIBODY_INLINE void shape_tiles() { asm volatile("ldtilecfg %0" ::"m"(kTileShapes)); }

// Without tiles in use the system has less to save when threads take turns.
TRIBODY_INLINE void release_tiles() { asm volatile("tilerelease" ::); }

using TileSums = int32_t[kTallTile][16];

// The products of a group into tile 2.
TRIBODY_INLINE void multiply_tiles(const int8_t* codes, const void* weights) {
  check_memory(codes, kTallTile * kGroup);
  check_memory(weights, kSteps * 64);
  asm volatile(
      "tileloadd (%0,%2,1), %%tmm0\n\t"
      "tileloadd (%1,%3,1), %%tmm1\n\t"
      "tilezero %%tmm2\n\t"
      "tdpbssd %%tmm1, %%tmm0, %%tmm2"
      :
      : "r"(codes), "r"(weights), "r"(int64_t{kGroup}), "r"(int64_t{64})
      : "memory");
}

TRIBODY_INLINE void store_tile(TileSums& to) {
  check_memory(to, sizeof to);
  asm volatile("tilestored %%tmm2, (%0,%1,1)" : : "r"(to), "r"(int64_t{64}) : "memory");
}

// results[m] += what row m's sums over a group are worth.
template <class F>
TRIBODY_INLINE void weigh(const TileSums& sums, const UnpackedGroup<TwoPanels>& w,
                          const A8Scale* x, F32x16 (&results)[kTallTile]) {
  alignas(64) float starts[kTallTile];
  if constexpr (F::kHasMinimum) {
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __m512i all = _mm512_permutex2var_epi32(_mm512_loadu_si512(x), odd,
                                                  _mm512_loadu_si512(x + kTallTile / 2));
    TwoPanels::to_float(all).store(starts);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kTallTile; ++m) {
    const F32x16 sum = TwoPanels::to_float(_mm512_load_si512(sums[m]));
    const F32x16 x_scale = F32x16::broadcast(x[m].scale);
    if constexpr (F::kHasMinimum) {
      const F32x16 below = w.minimum * F32x16::broadcast(starts[m]);
      results[m] = fma(fma(sum, w.scale, below), x_scale, results[m]);
    } else {
      results[m] = fma(sum, w.scale * x_scale, results[m]);
    }
  }
}

// Groups that are unpacked together: 24 are 15 KB, which stay in L1 while 12 KB of codes for each row
// tile pass by.
inline constexpr int64_t kGroupsTogether = 24;

// Sixteen rows of activations by the groups that are unpacked.
struct TallTile {
  int64_t row, valid;  // from `row` on, so many exist
  int64_t first_group, end_group;
  float* partial;  // (16, 16): results so far, between one range of groups and the next
  bool fetch;      // the panels that follow, meanwhile
};

// One group is multiplied while the one before it is weighed.
template <class F>
__attribute__((noinline)) void tall_tile(const UnpackedGroup<TwoPanels>* w,
                                         const Packed<F, TwoPanels>& packed, const PanelTask& task,
                                         const TallTile& tile) {
  const int64_t place = tile.row * task.x.groups + tile.first_group * kTallTile;
  const int8_t* codes = task.x.codes + place * kGroup;
  const A8Scale* scales = task.x.scales + place;
  const bool fetch = tile.fetch;
  alignas(64) TileSums sums[2];
  F32x16 results[kTallTile];
#pragma GCC unroll 16
  for (int m = 0; m < kTallTile; ++m) {
    results[m] = tile.first_group == 0 ? F32x16::zero() : F32x16::load(tile.partial + 16 * m);
  }
  const int64_t count = tile.end_group - tile.first_group;
  if (fetch) packed.fetch_ahead(tile.first_group);
  multiply_tiles(codes, w[0].steps);
  store_tile(sums[0]);
  for (int64_t g = 1; g < count; ++g) {
    codes += kTallTile * kGroup;
    if (fetch) packed.fetch_ahead(tile.first_group + g);
    multiply_tiles(codes, w[g].steps);
    weigh<F>(sums[(g - 1) & 1], w[g - 1], scales, results);
    store_tile(sums[g & 1]);
    scales += kTallTile;
  }
  weigh<F>(sums[(count - 1) & 1], w[count - 1], scales, results);
  const Output out = task.out;
  const bool is_last = tile.end_group == task.x.groups;
#pragma GCC unroll 16
  for (int m = 0; m < kTallTile; ++m) {
    if (!is_last) {
      results[m].store(tile.partial + 16 * m);
    } else if (m < tile.valid) {
      store_sixteen(results[m], out, tile.row + m, task.n, task.num_rows - task.n);
    }
  }
}

// Rows [row, end), by sixteen; up to eight may be left.  Returns the first that is.
template <class F>
TRIBODY_INLINE int64_t tall_tiles(const Packed<F, TwoPanels>& packed, const PanelTask& task,
                                  int64_t first, int64_t end) {
  const int64_t groups = task.x.groups;
  const int64_t tiles = (end - first + kTallTile - kRowTile - 1) / kTallTile;
  auto* partial = scratch<float>(Scratch::partial, tiles * kTallTile * 16);
  for (int64_t g = 0; g < groups; g += kGroupsTogether) {
    const int64_t end_group = groups - g < kGroupsTogether ? groups : g + kGroupsTogether;
    const UnpackedGroup<TwoPanels>* unpacked = unpack<true>(packed, g, end_group);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = first + t * kTallTile;
      tall_tile<F>(unpacked, packed, task,
                   {row, end - row, g, end_group, partial + t * kTallTile * 16, t == 0});
    }
  }
  return first + tiles * kTallTile;
}

}  // namespace tribody::TRIBODY_ISA

#endif
