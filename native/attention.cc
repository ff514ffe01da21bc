// Grouped-query attention over pages, one kernel for prefill and decode.
//
// Work is cut into tiles: some rows of one sequence times the query heads of one key-value head.
// The context is cut into segments of kSegment positions.  A tile walks them in order: keys of all
// pages of a segment against all its (row, head) pairs, a softmax of each pair, then the values.
// mix.inc makes each of the sums one chain in a fixed order.
//
// The segments' results are folded together from the first to the last, by the same function
// wherever it is called.  So tiles may be cut in any way, a long one also between segments (as in
// Flash-Decoding, Dao et al. 2023), and handed to any thread: a pair's bits stay the same.
//
// Decoding reads its pages from memory, at the speed of which it runs if something is being fetched
// at every moment: the values while keys are multiplied, the next segment's keys with the values.
// A softmax, with nothing to fetch beside it, comes once in four pages.
//
// Positions behind a row's own are never touched: their scores are overwritten before use, and
// values are summed only up to the row's position.  Unwritten page memory may hold NaN.
#include "attention.h"

#include <type_traits>

#include "simd.h"
#include "threads.h"
#include "tunables.h"

namespace tribody::TRIBODY_ISA {
namespace {

#include "mix.inc"
#include "softmax.inc"
#include "staging.inc"
#include "plan.inc"

struct Workspace {
  float *q, *scores, *keys, *values;
  PartialMemory partials;
  int64_t out_width;

  Workspace(int64_t pairs, int64_t dim) : out_width(padded(dim)) {
    Pieces pieces;
    for (int round = 0; round < 2; ++round) {
      q = pieces.take(pairs * dim);
      scores = pieces.take(pairs * kSegment);
      keys = pieces.take(dim * kPage);
      values = pieces.take(kPage * out_width);
      partials.take(pieces, pairs, out_width);
      if (round == 0) pieces.allocate(Scratch::attention_b);
    }
  }
};

template <class T>
struct PageOfHead {
  const T *keys, *values;
};

template <class T>
PageOfHead<T> page_at(const AttendCall& call, const Tile& tile, int64_t position) {
  const int64_t page = call.batch.table(tile.sequence)[position / kPage];
  const int64_t offset = (page * call.num_kv_heads + tile.group) * call.head_dim * kPage;
  return {static_cast<const T*>(call.k_pages) + offset,
          static_cast<const T*>(call.v_pages) + offset};
}

template <class T>
struct TileRun {
  const AttendCall& call;
  const Tile& tile;
  Workspace& work;

  int64_t dim() const { return call.head_dim; }
  int64_t step_row() const { return call.batch.row_starts[tile.sequence] + tile.first_row; }
  int64_t step_head() const {
    return tile.group * (call.num_heads / call.num_kv_heads) + tile.first_head;
  }

  void load_queries() {
    const int64_t width = tile.heads * dim();
    for (int64_t r = 0; r < tile.rows; ++r)
      memcpy(work.q + r * width, call.q.row(step_row() + r) + step_head() * dim(),
             static_cast<size_t>(width) * sizeof(float));
  }

  // scores = queries . keys, for the rows that attend to a page.  Meanwhile its values are fetched.
  void score(const PageOfHead<T>& page, int64_t base, int64_t begin) {
    const int64_t pair0 = tile.row_at(base) * tile.heads, pairs = tile.pairs() - pair0;
    const Strided q{work.q + pair0 * dim(), dim(), 1};
    const MixOut to{work.scores + pair0 * kSegment + base - begin, kSegment, Start::zero, nullptr};
    if (is_direct(pairs)) {
      mix(pairs, kPage, q, Operand<T>{page.keys, kPage, page.values, kPage}, dim(), to);
    } else {
      convert_rows(page.keys, kPage, dim(), kPage, work.keys, kPage);
      mix(pairs, kPage, q, Operand<float>{work.keys, kPage}, dim(), to);
    }
  }

  // Pages are used as they are where converting them would not pay.
  bool is_direct(int64_t pairs) const {
    return std::is_same_v<T, float> || pairs <= tile_rows(1);
  }

  void weigh(int64_t begin, int64_t end, const SoftmaxState& state) {
    const float factor = call.scale * kLog2E;
    const auto each = [&](auto&& step) {
      for (int64_t r = tile.row_at(begin), pair = r * tile.heads; r < tile.rows; ++r) {
        const int64_t own = tile.first_position() + r + 1, valid = (own < end ? own : end) - begin;
        for (const int64_t last = pair + tile.heads; pair < last; ++pair)
          step(work.scores + pair * kSegment, valid, pair);
      }
    };
    each([&](float* scores, int64_t valid, int64_t pair) {
      raise_max(scores, valid, factor, state.max + pair);
    });
    each([&](float* scores, int64_t valid, int64_t pair) {
      weigh_row(scores, valid, factor, state.max[pair], state.sum + pair);
    });
  }

  // out += weights . values of a page.  Meanwhile `next` is fetched.
  void add_values(const PageOfHead<T>& page, const T* next, int64_t base, int64_t begin,
                  const Partial& to) {
    const float* weights = work.scores + base - begin;
    if (is_direct((tile.rows - tile.row_at(base)) * tile.heads) && dim() == work.out_width) {
      add_values(Operand<T>{page.values, dim(), next, dim()}, weights, base, base == begin, to);
    } else {
      convert_rows(page.values, dim(), tile.valid(tile.rows - 1, base), dim(), work.values,
                   work.out_width);
      add_values(Operand<float>{work.values, work.out_width}, weights, base, base == begin, to);
    }
  }

  // The positions that all rows share, then each row's own.
  template <class U>
  void add_values(const Operand<U>& values, const float* weights, int64_t base, bool first,
                  const Partial& to) {
    const int64_t r0 = tile.row_at(base), shared = tile.valid(r0, base), heads = tile.heads;
    const auto add = [&](int64_t r, int64_t rows, int64_t from, int64_t end, Start start) {
      const int64_t pair = r * heads;
      mix(rows * heads, to.width, Strided{weights + pair * kSegment + from, kSegment, 1},
          values.shifted(from, 0), end - from,
          MixOut{to.out + pair * to.width, to.width, start, nullptr});
    };
    add(r0, tile.rows - r0, 0, shared, first ? Start::zero : Start::keep);
    for (int64_t r = r0 + 1; r < tile.rows && shared < kPage; ++r)
      add(r, 1, shared, tile.valid(r, base), Start::keep);
  }

  // Positions [begin, end), a segment.  Meanwhile the keys of [next, next_end) of the tile `after`
  // are fetched.
  void attend(int64_t begin, int64_t end, const Tile& after, int64_t next, int64_t next_end,
              const Partial& to) {
    for (int64_t base = begin; base < end; base += kPage)
      score(page_at<T>(call, tile, base), base, begin);
    weigh(begin, end, to.state);
    for (int64_t base = begin; base < end; base += kPage, next += kPage)
      add_values(page_at<T>(call, tile, base),
                 next < next_end ? page_at<T>(call, after, next).keys : nullptr, base, begin, to);
  }

  void store(const Partial& total) {
    for (int64_t r = 0; r < tile.rows; ++r)
      for (int64_t h = 0; h < tile.heads; ++h) {
        const int64_t pair = r * tile.heads + h;
        divide_row(total.out + pair * total.width, total.state.sum[pair], dim(),
                   call.out.row(step_row() + r) + (step_head() + h) * dim());
      }
  }
};

// Whether each unit is all there is of one key-value head of a sequence with one row.
bool units_are_heads(const AttendCall& call, const Plan& plan) {
  for (int64_t b = 0; b < call.batch.num_sequences; ++b) {
    if (call.batch.rows(b) != 1) return false;
  }
  return plan.num_units == call.batch.num_sequences * call.num_kv_heads;
}

// With `rope`, each unit rotates and stores its own head and row first: their page comes once to the
// core that reads it, and no thread waits for another to store.
template <class T>
void attend_units(const AttendCall& call, const Plan& plan, const RopeCall* rope) {
  plan.run([&](const Unit& unit, const Unit& after) {
    Workspace work(tunables.attention_pairs, call.head_dim);
    TileRun<T> run{call, *unit.tile, work};
    if (rope != nullptr) rope_store_group(*rope, run.step_row(), unit.tile->group);
    run.load_queries();
    run_unit(
        unit, work.partials, work.out_width,
        [&](int64_t begin, int64_t end, const Partial& to) {
          const bool last = end == unit.end();
          const Unit& next = last ? after : unit;
          run.attend(begin, end, *next.tile, last ? next.begin() : end, next.end(), to);
        },
        [&](const Partial& total) { run.store(total); });
  });
}

}  // namespace

void attend(const AttendCall& call) {
  const int64_t share = call.num_heads / call.num_kv_heads, threads = num_threads();
  const int64_t most = tunables.attention_pairs, heads = share < most ? share : most;
  Cut cut{0, call.batch.row_starts[call.batch.num_sequences], call.num_kv_heads, share,
          most / heads, heads};
  int64_t count = cut_tiles(call.batch, cut, nullptr);
  while (cut.rows > 1 && threads > 1 && count < 4 * threads) {  // lower tiles balance better
    cut.rows = (cut.rows + 1) / 2;
    count = cut_tiles(call.batch, cut, nullptr);
  }
  Tile* tiles = scratch<Tile>(Scratch::attention_a, count);
  cut_tiles(call.batch, cut, tiles);
  const Plan plan(tiles, count, padded(call.head_dim));
  const RopeCall* rope = call.rope;
  if (rope != nullptr && !units_are_heads(call, plan)) {
    rope_store(*rope);
    rope = nullptr;
  }
  if (call.half) {
    attend_units<Half>(call, plan, rope);
  } else {
    attend_units<float>(call, plan, rope);
  }
}

}  // namespace tribody::TRIBODY_ISA
