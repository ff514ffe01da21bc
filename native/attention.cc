// Grouped-query attention over pages, one kernel for prefill and decode.
//
// Work is cut into tiles: some rows of one sequence times the query heads of one key-value head.
// A tile walks the pages in order and reads each once for all its (row, head) pairs.  Every pair
// keeps a running maximum, sum and output (online softmax), updated once per page of 64 positions;
// mix.inc makes each of its sums one chain in a fixed order.  So tiles may be cut in any way and
// handed to any thread: a pair's bits stay the same.
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

// Reading and converting a page, in units of one pair's arithmetic on it.
constexpr int64_t kPageCost = 4;

// A list this short is sorted (longest first); in a longer one no tile weighs enough to matter.
constexpr int64_t kSortedTiles = 64;

struct Tile {
  int32_t sequence, kv_head;
  int32_t first_row, rows;    // rows counted inside the sequence
  int32_t first_head, heads;  // heads counted inside the group
  int64_t positions;          // that the last row attends to

  int64_t cost() const { return positions * (rows * heads + kPageCost); }
};

struct Workspace {
  float *q, *scores, *out, *keys, *values, *page_sum;
  SoftmaxState state;
  int64_t out_width;

  Workspace(int64_t pairs, int64_t dim) : out_width(padded(dim)) {
    Pieces pieces;
    for (int round = 0; round < 2; ++round) {
      q = pieces.take(pairs * dim);
      scores = pieces.take(pairs * kPage);
      out = pieces.take(pairs * out_width);
      keys = pieces.take(dim * kPage);
      values = pieces.take(kPage * out_width);
      page_sum = pieces.take(pairs);
      state = {pieces.take(pairs), pieces.take(pairs), pieces.take(pairs)};
      if (round == 0) pieces.allocate(Scratch::attention_b);
    }
  }
};

template <class T>
struct TileRun {
  const AttendCall& call;
  const Tile& tile;
  Workspace& work;
  int64_t first_position;  // of the tile's first row

  int64_t dim() const { return call.head_dim; }
  int64_t step_row() const { return call.batch.row_starts[tile.sequence] + tile.first_row; }

  // Positions of a page starting at `base` that the tile's row r attends to; may be <= 0.
  int64_t valid(int64_t r, int64_t base) const {
    const int64_t count = first_position + r + 1 - base;
    return count < kPage ? count : kPage;
  }

  void load_queries() {
    const int64_t head = tile.kv_head * (call.num_heads / call.num_kv_heads) + tile.first_head;
    const int64_t width = tile.heads * dim();
    for (int64_t r = 0; r < tile.rows; ++r)
      memcpy(work.q + r * width, call.q.row(step_row() + r) + head * dim(),
                  static_cast<size_t>(width) * sizeof(float));
    const int64_t pairs = tile.rows * tile.heads;
    clear_state(pairs, work.state);
    memset(work.out, 0, static_cast<size_t>(pairs * work.out_width) * sizeof(float));
  }

  // Rows [r0, rows) against one page.
  void visit(const T* keys, const T* values, int64_t r0, int64_t base) {
    const int64_t pair0 = r0 * tile.heads, pairs = tile.rows * tile.heads - pair0;
    const bool direct = std::is_same_v<T, float> || pairs <= tile_rows(1);
    float* scores = work.scores + pair0 * kPage;
    const Strided q{work.q + pair0 * dim(), dim(), 1};
    const MixOut to_scores{scores, kPage, Start::zero, nullptr};
    if (direct) {
      mix(pairs, kPage, q, keys, kPage, dim(), to_scores);
    } else {
      convert_rows(keys, kPage, dim(), kPage, work.keys, kPage);
      mix(pairs, kPage, q, work.keys, kPage, dim(), to_scores);
    }
    weigh(r0, base);

    const int64_t most = valid(tile.rows - 1, base);
    if (direct && dim() == work.out_width) {
      add_values(values, dim(), r0, base);
    } else {
      convert_rows(values, dim(), most, dim(), work.values, work.out_width);
      add_values(work.values, work.out_width, r0, base);
    }
  }

  void weigh(int64_t r0, int64_t base) {
    const int64_t first = r0 * tile.heads, end = tile.rows * tile.heads;
    for (int64_t r = r0, pair = first; r < tile.rows; ++r)
      for (const int64_t next = pair + tile.heads; pair < next; ++pair)
        raise_max(work.scores + pair * kPage, valid(r, base), call.scale, pair, work.state);
    for (int64_t r = r0, pair = first; r < tile.rows; ++r)
      for (const int64_t next = pair + tile.heads; pair < next; ++pair)
        weigh_row(work.scores + pair * kPage, valid(r, base), call.scale, pair, work.state,
                  work.page_sum);
    finish_page(first, end, work.state, work.page_sum);
  }

  // out = out * carry + weights . values: the positions that all rows share, then each row's own.
  template <class U>
  void add_values(const U* values, int64_t stride, int64_t r0, int64_t base) {
    const int64_t shared = valid(r0, base), heads = tile.heads;
    const auto add = [&](int64_t r, int64_t rows, int64_t from, int64_t to, Start start) {
      const int64_t pair = r * heads;
      mix(rows * heads, work.out_width, Strided{work.scores + pair * kPage + from, kPage, 1},
          values + from * stride, stride, to - from,
          MixOut{work.out + pair * work.out_width, work.out_width, start, work.state.carry + pair});
    };
    add(r0, tile.rows - r0, 0, shared, Start::carry);
    for (int64_t r = r0 + 1; r < tile.rows && shared < kPage; ++r)
      add(r, 1, shared, valid(r, base), Start::keep);
  }

  void store_out() {
    const int64_t head = tile.kv_head * (call.num_heads / call.num_kv_heads) + tile.first_head;
    for (int64_t r = 0; r < tile.rows; ++r)
      for (int64_t h = 0; h < tile.heads; ++h) {
        const int64_t pair = r * tile.heads + h;
        divide_row(work.out + pair * work.out_width, work.state.sum[pair], dim(),
                   call.out.row(step_row() + r) + (head + h) * dim());
      }
  }

  void run() {
    load_queries();
    const int32_t* table = call.batch.table(tile.sequence);
    const int64_t head_size = dim() * kPage, page_size = call.num_kv_heads * head_size;
    const T* k_pages = static_cast<const T*>(call.k_pages) + tile.kv_head * head_size;
    const T* v_pages = static_cast<const T*>(call.v_pages) + tile.kv_head * head_size;
    const int64_t end = first_position + tile.rows;
    for (int64_t base = 0; base < end; base += kPage) {
      const int64_t offset = table[base / kPage] * page_size;
      visit(k_pages + offset, v_pages + offset, base > first_position ? base - first_position : 0,
            base);
    }
    store_out();
  }
};

// Emits tiles of at most `rows` rows; counts only, if `tiles` is null.  A group larger than
// attention_pairs is cut by heads.  Tiles of one key-value head follow each other, so that its pages
// stay in the L2 cache; later rows, which cost more, come first.
int64_t cut_tiles(const AttendCall& call, int64_t rows, Tile* tiles) {
  const int64_t share = call.num_heads / call.num_kv_heads;
  const int64_t most = tunables.attention_pairs, step = share < most ? share : most;
  int64_t count = 0;
  for (int64_t b = 0; b < call.batch.num_sequences; ++b) {
    const int64_t total = call.batch.rows(b), num_cuts = (total + rows - 1) / rows;
    if (tiles == nullptr) {
      count += num_cuts * call.num_kv_heads * ((share + step - 1) / step);
      continue;
    }
    for (int64_t head = 0, heads = 0; head < call.num_heads; head += heads) {
      const int64_t kv_head = head / share, first = head % share;
      heads = share - first < step ? share - first : step;
      for (int64_t cut = num_cuts - 1; cut >= 0; --cut) {
        const int64_t done = cut * rows, height = total - done < rows ? total - done : rows;
        tiles[count++] =
            Tile{static_cast<int32_t>(b),      static_cast<int32_t>(kv_head),
                 static_cast<int32_t>(done),   static_cast<int32_t>(height),
                 static_cast<int32_t>(first),  static_cast<int32_t>(heads),
                 call.batch.starts[b] + done + height};
      }
    }
  }
  return count;
}

// For fewer tiles than would balance themselves: cuts the list into a share for each thread, equal
// in heads.  A tile across a cut becomes two, and its pages are read twice.  Returns the new count,
// at most count + threads - 1.
int64_t share_heads(const Tile* tiles, int64_t count, int64_t threads, Tile* parts) {
  int64_t units = 0, unit = 0, num_parts = 0;
  for (int64_t i = 0; i < count; ++i) units += tiles[i].heads;
  for (int64_t i = 0; i < count; ++i) {
    Tile part = tiles[i];
    for (int64_t left = tiles[i].heads; left > 0; left -= part.heads) {
      const int64_t share = unit * threads / units;
      const int64_t end = (units * (share + 1) + threads - 1) / threads;
      part.first_head = static_cast<int32_t>(tiles[i].first_head + tiles[i].heads - left);
      part.heads = static_cast<int32_t>(left < end - unit ? left : end - unit);
      parts[num_parts++] = part;
      unit += part.heads;
    }
  }
  return num_parts;
}

void sort_longest_first(Tile* tiles, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const Tile moved = tiles[i];
    int64_t j = i;
    for (; j > 0 && tiles[j - 1].cost() < moved.cost(); --j) tiles[j] = tiles[j - 1];
    tiles[j] = moved;
  }
}

template <class T>
void attend_tiles(const AttendCall& call, const Tile* tiles, int64_t count) {
  parallel_for(count, [&](int64_t index) {
    const Tile& tile = tiles[index];
    Workspace work(tunables.attention_pairs, call.head_dim);
    TileRun<T>{call, tile, work, call.batch.starts[tile.sequence] + tile.first_row}.run();
  });
}

}  // namespace

void attend(const AttendCall& call) {
  const int64_t share = call.num_heads / call.num_kv_heads, threads = num_threads();
  int64_t rows = share < tunables.attention_pairs ? tunables.attention_pairs / share : 1;
  int64_t count = cut_tiles(call, rows, nullptr);
  while (rows > 1 && threads > 1 && count < 4 * threads) {  // lower tiles balance better
    rows = (rows + 1) / 2;
    count = cut_tiles(call, rows, nullptr);
  }
  Tile* tiles = scratch<Tile>(Scratch::attention_a, 2 * count + threads);
  cut_tiles(call, rows, tiles);
  if (count < 4 * threads && count % threads != 0) {
    Tile* parts = tiles + count;
    count = share_heads(tiles, count, threads, parts);
    tiles = parts;
  }
  if (count <= kSortedTiles) sort_longest_first(tiles, count);
  if (call.half) {
    attend_tiles<Half>(call, tiles, count);
  } else {
    attend_tiles<float>(call, tiles, count);
  }
}

}  // namespace tribody::TRIBODY_ISA
