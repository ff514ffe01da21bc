// Panels of the integer formats as products take them: packed as they lie in memory, or unpacked once
// for many rows.
#pragma once

#include "int_formats.h"
#include "linear_tile.h"

namespace tribody::TRIBODY_ISA {

// Rows of W that meet activations: 8 for each panel, from column n of out.
struct PanelTask {
  const Activations& x;
  const Output& out;
  int64_t n;
  int64_t num_rows;  // of W: outputs from here on do not exist
  bool on_tiles;     // AMX's are shaped, for rows by sixteen
};

// One panel, or two neighbouring ones, as they lie in memory: unpacked wherever they are used.
template <class F, class P>
struct Packed {
  using Format = F;
  using Width = P;
  using Tile = typename F::Tile;

  // `to_fetch`: what is read next, fetched meanwhile.
  Packed(const uint8_t* panel, int64_t to_next, const uint8_t* to_fetch)
      : tiles(reinterpret_cast<const Tile*>(panel + layout_of(F::kFormat).header_bytes)),
        next(to_next),
        ahead(to_fetch),
        weigh(panel, to_next) {}

  TRIBODY_INLINE typename P::Bytes step(int64_t g, int s) const {
    return F::template step<P>(tiles + g, next, s);
  }
  TRIBODY_INLINE typename P::Float scale(int64_t g) const { return weigh.of(tiles + g, next); }
  TRIBODY_INLINE typename P::Float minimum(int64_t g) const {
    return weigh.minimum_of(tiles + g, next);
  }
  // As many bytes of what is next as group g takes here.
  TRIBODY_INLINE void fetch_ahead(int64_t g) const {
    constexpr int64_t kBytes = P::kPanels * static_cast<int64_t>(sizeof(Tile));
    fetch<kBytes>(ahead + kBytes * g);
  }

  const Tile* tiles;
  int64_t next;  // bytes from one panel to the following
  const uint8_t* ahead;
  typename F::template Scales<P> weigh;
};

template <class P>
struct UnpackedGroup {
  typename P::Bytes steps[kSteps];
  typename P::Float scale, minimum;
};

// Groups [first, end), unpacked once for many row tiles, in scratch of this thread; as signed codes if
// kSigned.
template <bool kSigned, class F, class P>
TRIBODY_INLINE const UnpackedGroup<P>* unpack(const Packed<F, P>& panel, int64_t first,
                                              int64_t end) {
  auto* const groups = scratch<UnpackedGroup<P>>(Scratch::unpacked, end - first);
  auto* to = groups;
  for (int64_t g = first; g < end; ++g, ++to) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      to->steps[s] = panel.step(g, s);
      if constexpr (kSigned) to->steps[s] = P::less(to->steps[s], F::kOffset);
    }
    to->scale = panel.scale(g);
    to->minimum = panel.minimum(g);
  }
  return groups;
}

// The same as a source of numbers.
template <class F, class P>
struct Unpacked {
  using Format = F;
  using Width = P;

  Unpacked(const Packed<F, P>& from, int64_t count)
      : groups(unpack<false>(from, 0, count)), packed(from) {}

  TRIBODY_INLINE typename P::Bytes step(int64_t g, int s) const { return groups[g].steps[s]; }
  TRIBODY_INLINE typename P::Float scale(int64_t g) const { return groups[g].scale; }
  TRIBODY_INLINE typename P::Float minimum(int64_t g) const { return groups[g].minimum; }
  TRIBODY_INLINE void fetch_ahead(int64_t g) const { packed.fetch_ahead(g); }

  const UnpackedGroup<P>* groups;
  Packed<F, P> packed;
};

}  // namespace tribody::TRIBODY_ISA
