// Grouped-query attention over pages, one kernel for prefill and decode.
//
// Work is cut into tiles: some rows of one sequence times the query heads of one key-value head.
// A tile walks the pages in order and reads each once for all its (row, head) pairs.  Every pair
// keeps a running maximum, sum and output (online softmax), updated once per page of 64 positions;
// mix.inc makes each of its sums one chain in a fixed order.
//
// The context is cut into segments of kSegment positions.  Each starts a softmax of its own, and
// their results are folded together from the first to the last, by the same function wherever it is
// called.  So tiles may be cut in any way, a long one also between segments (as in Flash-Decoding,
// Dao et al. 2023), and handed to any thread: a pair's bits stay the same.
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
  float *q, *scores, *keys, *values, *page_sum;
  PartialMemory partials;
  int64_t out_width;

  Workspace(int64_t pairs, int64_t dim) : out_width(padded(dim)) {
    Pieces pieces;
    for (int round = 0; round < 2; ++round) {
      q = pieces.take(pairs * dim);
      scores = pieces.take(pairs * kPage);
      keys = pieces.take(dim * kPage);
      values = pieces.take(kPage * out_width);
      page_sum = pieces.take(pairs);
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

  // All rows that attend to it against one page, the first of a segment or a later one.  Meanwhile
  // `next` is fetched.
  void visit(const PageOfHead<T>& page, const PageOfHead<T>& next, int64_t base, Start start,
             const Partial& to) {
    const int64_t r0 = tile.row_at(base), pair0 = r0 * tile.heads, pairs = tile.pairs() - pair0;
    const bool direct = std::is_same_v<T, float> || pairs <= tile_rows(1);
    const Strided q{work.q + pair0 * dim(), dim(), 1};
    const MixOut to_scores{work.scores + pair0 * kPage, kPage, Start::zero, nullptr};
    if (direct) {
      mix(pairs, kPage, q, Operand<T>{page.keys, kPage, next.keys, kPage}, dim(), to_scores);
    } else {
      convert_rows(page.keys, kPage, dim(), kPage, work.keys, kPage);
      mix(pairs, kPage, q, Operand<float>{work.keys, kPage}, dim(), to_scores);
    }
    weigh(r0, base, to.state);

    if (direct && dim() == work.out_width) {
      add_values(Operand<T>{page.values, dim(), next.values, dim()}, base, start, to);
    } else {
      convert_rows(page.values, dim(), tile.valid(tile.rows - 1, base), dim(), work.values,
                   work.out_width);
      add_values(Operand<float>{work.values, work.out_width}, base, start, to);
    }
  }

  void weigh(int64_t r0, int64_t base, const SoftmaxState& state) {
    const int64_t first = r0 * tile.heads, end = tile.pairs();
    for (int64_t r = r0, pair = first; r < tile.rows; ++r)
      for (const int64_t next = pair + tile.heads; pair < next; ++pair)
        raise_max(work.scores + pair * kPage, tile.valid(r, base), call.scale, pair, state);
    for (int64_t r = r0, pair = first; r < tile.rows; ++r)
      for (const int64_t next = pair + tile.heads; pair < next; ++pair)
        weigh_row(work.scores + pair * kPage, tile.valid(r, base), call.scale, pair, state,
                  work.page_sum);
    finish_page(first, end, state, work.page_sum);
  }

  // out = out * carry + weights . values: the positions that all rows share, then each row's own.
  template <class U>
  void add_values(const Operand<U>& values, int64_t base, Start start, const Partial& to) {
    const int64_t r0 = tile.row_at(base), shared = tile.valid(r0, base), heads = tile.heads;
    const auto add = [&](int64_t r, int64_t rows, int64_t from, int64_t end, Start begin) {
      const int64_t pair = r * heads;
      mix(rows * heads, to.width, Strided{work.scores + pair * kPage + from, kPage, 1},
          values.shifted(from, 0), end - from,
          MixOut{to.out + pair * to.width, to.width, begin, to.state.carry + pair});
    };
    add(r0, tile.rows - r0, 0, shared, start);
    for (int64_t r = r0 + 1; r < tile.rows && shared < kPage; ++r)
      add(r, 1, shared, tile.valid(r, base), Start::keep);
  }

  // Positions [begin, end) of a segment; `after` is the page that is read once the unit is done.
  void attend(int64_t begin, int64_t end, int64_t unit_end, const PageOfHead<T>& after,
              const Partial& to) {
    PageOfHead<T> page = page_at<T>(call, tile, begin);
    for (int64_t base = begin; base < end; base += kPage) {
      const PageOfHead<T> next =
          base + kPage < unit_end ? page_at<T>(call, tile, base + kPage) : after;
      visit(page, next, base, base == begin ? Start::zero : Start::carry, to);
      page = next;
    }
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

template <class T>
void attend_units(const AttendCall& call, const Plan& plan) {
  plan.run([&](const Unit& unit, const Unit& after) {
    Workspace work(tunables.attention_pairs, call.head_dim);
    TileRun<T> run{call, *unit.tile, work};
    const PageOfHead<T> next = page_at<T>(call, *after.tile, after.begin());
    run.load_queries();
    run_unit(
        unit, work.partials, work.out_width,
        [&](int64_t begin, int64_t end, const Partial& to) {
          run.attend(begin, end, unit.end(), next, to);
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
  if (call.half) {
    attend_units<Half>(call, plan);
  } else {
    attend_units<float>(call, plan);
  }
}

}  // namespace tribody::TRIBODY_ISA
