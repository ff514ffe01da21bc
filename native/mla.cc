// Multi-head latent attention over latent pages, absorbed and expanded.  Source: DeepSeek-V2 paper,
// section 2.1.2.
//
// Both forms share the tile of latent_tile.inc.  As in attention.cc, pages are visited in order and
// every sum is one chain in a fixed order: a pair's bits do not depend on its tile, its batch or
// the threads.
//
// Absorbed, three passes over a bounded number of rows: q_nope through W_UK for each head,
// attention in latent space for each tile, the mixed latents through W_UV.  A long context is cut
// between segments as in attention.cc.
// Expanded, one pass: each (sequence, head) rebuilds its keys and values block by block in a
// buffer that stays in the L2 cache and attends with all its rows, so memory does not grow with
// the context.
#include "attention.h"

#include <type_traits>

#include "linear.h"
#include "simd.h"
#include "threads.h"
#include "tunables.h"

namespace tribody::TRIBODY_ISA {
namespace {

#include "mix.inc"
#include "softmax.inc"
#include "staging.inc"
#include "plan.inc"
#include "latent_tile.inc"

// Floats of the queries and mixed latents of one absorbed pass: 16 MB each.
constexpr int64_t kPassFloats = 4 << 20;

// Rows of an expanded tile.
constexpr int64_t kExpandedRows = 64;

// out (rows, panels' columns) = x W^T for panels [first, end) of one expert, on the caller.
void linear_on_caller(const Rows& x, const MatrixView& w, int64_t expert, int64_t first_panel,
                      int64_t end_panel, const Output& out) {
  const Activations input = activations_for(x, w, Scratch::codes, Scratch::scales);
  quantize_rows(x, 0, x.count, input);
  multiply(input, w, expert, Span{0, x.count, first_panel, end_panel}, out);
}

// --- absorbed -----------------------------------------------------------------------------------

struct AbsorbedPass {
  const MlaAttendCall& call;
  int64_t first_row, rows;  // of the step
  float* latent_q;          // (H, rows, R)
  float* mixed;             // (H, rows, R)

  int64_t latent() const { return call.rank + call.rope; }

  // Where a head's latent query or output of a row of the step stands in its array.
  int64_t offset(int64_t head, int64_t row) const {
    return (head * rows + row - first_row) * call.rank;
  }
};

template <class T>
const T* page_at(const AbsorbedPass& pass, const Tile& cut, int64_t position) {
  const int64_t page = pass.call.batch.table(cut.sequence)[position / kPage];
  return static_cast<const T*>(pass.call.pages) + page * kPage * pass.latent();
}

// Latents that are converted at once: the rows of a register tile, and columns that leave room in
// L1 for those of the queries.
constexpr int64_t kBlockRows = 16, kBlockColumns = 192;

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// One tile in latent space: latent_q and q's rope part to mixed.
template <class T>
class AbsorbedRun {
 public:
  AbsorbedRun(const AbsorbedPass& pass, const Tile& cut) : pass_(pass), cut_(cut) {
    const int64_t width = padded(cut.pairs());
    tile_ = PairTile{cut.rows, cut.heads, cut.first_position(), pass.call.scale * kLog2E,
                     width,    nullptr,   nullptr};
    for (int round = 0; round < 2; ++round) {
      tile_.queries = pieces_.take(pass.latent() * width);
      tile_.scores = pieces_.take(kPage * width);
      converted_ = pieces_.take(kPage * padded(pass.latent()));
      memory_.take(pieces_, cut.pairs(), padded(pass.call.rank));
      if (round == 0) pieces_.allocate(Scratch::attention_b);
    }
    load_queries();
  }

  // Attends to all of the unit; `after` is the page that is read next.
  void run(const Unit& unit, const T* after) {
    run_unit(
        unit, memory_, padded(pass_.call.rank),
        [&](int64_t begin, int64_t end, const Partial& to) {
          clear_state(cut_.pairs(), to.state);
          for (int64_t base = begin; base < end; base += kPage)
            visit(base, base + kPage < unit.end() ? page_at<T>(pass_, cut_, base + kPage) : after,
                  base == begin ? Start::zero : Start::carry, to);
        },
        [&](const Partial& total) { store(total); });
  }

 private:
  int64_t step_row(int64_t r) const {
    return pass_.call.batch.row_starts[cut_.sequence] + cut_.first_row + r;
  }

  void load_queries() {
    const MlaAttendCall& call = pass_.call;
    memset(tile_.queries, 0, static_cast<size_t>(pass_.latent() * tile_.width) * sizeof(float));
    for (int64_t r = 0; r < cut_.rows; ++r)
      for (int64_t h = 0; h < cut_.heads; ++h) {
        const int64_t head = cut_.first_head + h;
        float* to = tile_.queries + r * cut_.heads + h;
        transpose_row(pass_.latent_q + pass_.offset(head, step_row(r)), call.rank, to,
                      tile_.width);
        transpose_row(call.q.row(step_row(r)) + head * (call.nope + call.rope) + call.nope,
                      call.rope, to + call.rank * tile_.width, tile_.width);
      }
  }

  // A page of latents against all queries, in blocks whose float32 form stays in L1.  The values
  // are the latents again, as they are: sixteen heads pay for the conversion.  Meanwhile `next` is
  // fetched.
  void visit(int64_t base, const T* next, Start start, const Partial& to) {
    const int64_t latent = pass_.latent(), width = padded(pass_.call.rank);
    const int64_t count = cut_.valid(cut_.rows - 1, base);
    const T* page = page_at<T>(pass_, cut_, base);
    for (int64_t column = 0; column < latent; column += kBlockColumns)
      for (int64_t first = 0; first < count; first += kBlockRows)
        score(page, first, least(kBlockRows, count - first), column,
              least(kBlockColumns, latent - column));
    for (int64_t r = 0; next != nullptr && r < count; ++r)  // add_values fetches the rest
      for (int64_t d = width; d < latent; d += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(next + r * latent + d, 0, 2);
    tile_.weigh(base, to.state);
    if (latent >= width) {
      tile_.add_values(Operand<T>{page, latent, next, latent}, base, start, to);
    } else {  // the last vector of a row may end behind the page
      convert_rows(page, latent, count, pass_.call.rank, converted_, width);
      tile_.add_values(Operand<float, T>{converted_, width, next, latent}, base, start, to);
    }
  }

  void score(const T* page, int64_t first, int64_t rows, int64_t column, int64_t columns) {
    const T* from = page + first * pass_.latent() + column;
    if constexpr (std::is_same_v<T, float>) {
      tile_.score(from, pass_.latent(), first, rows, column, columns);
    } else {
      convert_rows(from, pass_.latent(), rows, columns, converted_, columns);
      tile_.score(converted_, columns, first, rows, column, columns);
    }
  }

  void store(const Partial& total) {
    for (int64_t r = 0; r < cut_.rows; ++r)
      for (int64_t h = 0; h < cut_.heads; ++h) {
        const int64_t pair = r * cut_.heads + h;
        divide_row(total.out + pair * total.width, total.state.sum[pair], pass_.call.rank,
                   pass_.mixed + pass_.offset(cut_.first_head + h, step_row(r)));
      }
  }

  const AbsorbedPass& pass_;
  const Tile& cut_;
  PairTile tile_;
  Pieces pieces_;
  PartialMemory memory_;
  float* converted_;
};

// The least heads of a tile: half an AVX-512 register of scores.
constexpr int64_t kLeastHeads = 8;

// Tiles of as many pairs as tunables.latent_pairs; of fewer heads where even single segments would
// be too few for the threads, though pages are then converted more often.
Cut cut_of(const AbsorbedPass& pass) {
  const Batch& batch = pass.call.batch;
  const int64_t pairs = tunables.latent_pairs, threads = num_threads();
  int64_t heads = pass.call.num_heads < pairs ? pass.call.num_heads : pairs, segments = 0;
  for (int64_t b = 0; b < batch.num_sequences; ++b)
    if (batch.rows(b) > 0) segments += segments_of(batch.starts[b] + batch.rows(b));
  const auto parts = [&] { return (pass.call.num_heads + heads - 1) / heads; };
  while (threads > 1 && heads > kLeastHeads && segments * parts() < 2 * threads)
    heads = (heads + 1) / 2;
  return Cut{pass.first_row, pass.first_row + pass.rows, 1, pass.call.num_heads,
             heads < pairs ? pairs / heads : 1, heads};
}

template <class T>
void attend_latents(const AbsorbedPass& pass, const Plan& plan) {
  plan.run([&](const Unit& unit, const Unit& after) {
    AbsorbedRun<T>(pass, *unit.tile).run(unit, page_at<T>(pass, *after.tile, after.begin()));
  });
}

void run_absorbed(const AbsorbedPass& pass) {
  const MlaAttendCall& call = pass.call;
  const int64_t head_width = call.nope + call.rope;
  const auto begin_heads = [&](const MatrixView& w) {
    begin_reading({w.data, nullptr, w.bytes_per_expert(), call.num_heads});
  };
  begin_heads(*call.w_uk);
  parallel_for(call.num_heads, [&](int64_t h) {
    const Rows x{call.q.row(pass.first_row) + h * head_width, call.q.stride, pass.rows};
    linear_on_caller(x, *call.w_uk, h, 0, call.w_uk->num_panels(),
                     Output{pass.latent_q + h * pass.rows * call.rank, call.rank});
  });
  const Cut cut = cut_of(pass);
  const int64_t count = cut_tiles(call.batch, cut, nullptr);
  Tile* tiles = scratch<Tile>(Scratch::attention_d, count);
  cut_tiles(call.batch, cut, tiles);
  if (call.half) {
    attend_latents<Half>(pass, Plan(tiles, count, padded(call.rank)));
  } else {
    attend_latents<float>(pass, Plan(tiles, count, padded(call.rank)));
  }
  begin_heads(*call.w_uv);
  parallel_for(call.num_heads, [&](int64_t h) {
    const Rows x{pass.mixed + h * pass.rows * call.rank, call.rank, pass.rows};
    linear_on_caller(x, *call.w_uv, h, 0, call.w_uv->num_panels(),
                     Output{call.out.row(pass.first_row) + h * call.value_dim, call.out.stride});
  });
}

// --- expanded -----------------------------------------------------------------------------------

struct ExpandedGroup {
  int64_t sequence, first_row, rows, head;  // rows of the step
};

template <class T>
class ExpandedRun {
 public:
  ExpandedRun(const MlaAttendCall& call, const ExpandedGroup& group) : call_(call), group_(group) {
    const int64_t height = panel_rows(call.kv_b->format), columns = call.nope + call.value_dim;
    first_panel_ = group.head * columns / height;
    end_panel_ = ((group.head + 1) * columns + height - 1) / height;
    skipped_ = group.head * columns - first_panel_ * height;
    kv_stride_ = (end_panel_ - first_panel_) * height;
    num_tiles_ = (group.rows + kExpandedRows - 1) / kExpandedRows;
    first_position_ =
        call.batch.starts[group.sequence] + group.first_row - call.batch.row_starts[group.sequence];
    for (int round = 0; round < 2; ++round) {
      place();
      if (round == 0) pieces_.allocate(Scratch::attention_b);
    }
  }

  void run() {
    const int64_t end = first_position_ + group_.rows;
    for (int64_t i = 0; i < num_tiles_; ++i) {
      clear_state(kExpandedRows, softmax(i).state);
      load_queries(tile(i));
    }
    for (int64_t base = 0; base < end; base += tunables.rebuilt_pages * kPage) {
      const int64_t left = end - base, most = tunables.rebuilt_pages * kPage;
      rebuild(base, left < most ? left : most);
      for (int64_t page = base; page < end && page < base + most; page += kPage)
        for (int64_t i = 0; i < num_tiles_; ++i) {
          PairTile rows = tile(i);
          if (rows.first_position + rows.rows > page)
            visit(rows, page, page - base, softmax(i));
        }
    }
    for (int64_t i = 0; i < num_tiles_; ++i) store(tile(i), softmax(i));
  }

 private:
  void place() {
    const int64_t rows = num_tiles_ * kExpandedRows, block = tunables.rebuilt_pages * kPage;
    latents_ = pieces_.take(block * call_.rank);
    ropes_ = pieces_.take(block * call_.rope);
    kv_ = pieces_.take(block * kv_stride_ + kLanes);  // the last values are read as whole vectors
    queries_ = pieces_.take(rows * (call_.nope + call_.rope));
    scores_ = pieces_.take(kPage * kExpandedRows);
    softmaxes_ = pieces_.take(num_tiles_ * softmax_floats());
    carry_ = pieces_.take(kExpandedRows);
  }

  PairTile tile(int64_t i) const {
    const int64_t row = i * kExpandedRows, left = group_.rows - row;
    return PairTile{left < kExpandedRows ? left : kExpandedRows,
                    1,
                    first_position_ + row,
                    call_.scale * kLog2E,
                    padded(left < kExpandedRows ? left : kExpandedRows),
                    queries_ + row * (call_.nope + call_.rope),
                    scores_};
  }

  int64_t softmax_floats() const {
    return Partial::floats(kExpandedRows, padded(call_.value_dim));
  }

  Partial softmax(int64_t i) const {
    return Partial(softmaxes_ + i * softmax_floats(), kExpandedRows, padded(call_.value_dim),
                   carry_);
  }

  int64_t step_row(const PairTile& tile) const {
    return group_.first_row + tile.first_position - first_position_;
  }

  void load_queries(const PairTile& tile) {
    const int64_t dim = call_.nope + call_.rope;
    memset(tile.queries, 0, static_cast<size_t>(dim * tile.width) * sizeof(float));
    for (int64_t r = 0; r < tile.rows; ++r)
      transpose_row(call_.q.row(step_row(tile) + r) + group_.head * dim, dim, tile.queries + r,
                    tile.width);
  }

  // Keys and values of this head for positions [base, base + count).
  void rebuild(int64_t base, int64_t count) {
    const int64_t latent = call_.rank + call_.rope;
    const int32_t* table = call_.batch.table(group_.sequence) + base / kPage;
    for (int64_t done = 0; done < count; done += kPage) {
      const T* page = static_cast<const T*>(call_.pages) + table[done / kPage] * kPage * latent;
      const int64_t rows = count - done < kPage ? count - done : kPage;
      convert_rows(page, latent, rows, call_.rank, latents_ + done * call_.rank, call_.rank);
      convert_rows(page + call_.rank, latent, rows, call_.rope, ropes_ + done * call_.rope,
                   call_.rope);
    }
    const int64_t first_column = first_panel_ * panel_rows(call_.kv_b->format);
    linear_on_caller(Rows{latents_, call_.rank, count}, *call_.kv_b, 0, first_panel_, end_panel_,
                     Output{kv_ - first_column, kv_stride_});
  }

  // One page, which lies at `offset` in the block that was rebuilt.
  void visit(PairTile& tile, int64_t page, int64_t offset, const Partial& to) {
    const float* kv = kv_ + offset * kv_stride_ + skipped_;
    const int64_t count = tile.valid(tile.rows - 1, page);
    tile.score(kv, kv_stride_, 0, count, 0, call_.nope);
    tile.score(ropes_ + offset * call_.rope, call_.rope, 0, count, call_.nope, call_.rope);
    tile.weigh(page, to.state);
    tile.add_values(Operand<float>{kv + call_.nope, kv_stride_}, page,
                    page == 0 ? Start::zero : Start::carry, to);
  }

  void store(const PairTile& tile, const Partial& total) {
    for (int64_t r = 0; r < tile.rows; ++r)
      divide_row(total.out + r * total.width, total.state.sum[r], call_.value_dim,
                 call_.out.row(step_row(tile) + r) + group_.head * call_.value_dim);
  }

  const MlaAttendCall& call_;
  const ExpandedGroup& group_;
  Pieces pieces_;
  int64_t first_panel_, end_panel_, skipped_, kv_stride_, num_tiles_, first_position_;
  float *latents_, *ropes_, *kv_, *queries_, *scores_, *softmaxes_, *carry_;
};

}  // namespace

void mla_attend_absorbed(const MlaAttendCall& call) {
  const int64_t row_floats = call.num_heads * call.rank;
  int64_t most = kPassFloats / row_floats;
  if (most < 1) most = 1;
  if (most > call.rows) most = call.rows;
  for (int64_t row = 0; row < call.rows; row += most) {
    const int64_t rows = call.rows - row < most ? call.rows - row : most;
    run_absorbed(AbsorbedPass{call, row, rows,
                              scratch<float>(Scratch::attention_a, rows * row_floats),
                              scratch<float>(Scratch::attention_c, rows * row_floats)});
  }
}

void mla_attend_expanded(const MlaAttendCall& call) {
  const Batch& batch = call.batch;
  const int64_t most = tunables.rebuild_rows;
  int64_t count = 0;
  for (int64_t b = 0; b < batch.num_sequences; ++b)
    count += (batch.rows(b) + most - 1) / most * call.num_heads;
  ExpandedGroup* groups = scratch<ExpandedGroup>(Scratch::attention_a, count);
  count = 0;
  for (int64_t b = 0; b < batch.num_sequences; ++b)
    for (int64_t done = 0; done < batch.rows(b); done += most) {
      const int64_t left = batch.rows(b) - done;
      for (int64_t head = 0; head < call.num_heads; ++head)
        groups[count++] = ExpandedGroup{b, batch.row_starts[b] + done,
                                        left < most ? left : most, head};
    }
  parallel_for(count, [&](int64_t index) {
    if (call.half) {
      ExpandedRun<Half>(call, groups[index]).run();
    } else {
      ExpandedRun<float>(call, groups[index]).run();
    }
  });
}

}  // namespace tribody::TRIBODY_ISA
