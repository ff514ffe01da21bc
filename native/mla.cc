// Multi-head latent attention over latent pages, absorbed and expanded.  Source: DeepSeek-V2 paper,
// section 2.1.2.
//
// Both forms share the tile of latent_tile.inc.  As in attention.cc, pages are visited in order and
// every sum is one chain in a fixed order: a pair's bits do not depend on its tile, its batch or
// the threads.
//
// Absorbed, three passes over a bounded number of rows: q_nope through W_UK for each head,
// attention in latent space for each tile, the mixed latents through W_UV.  A page of latents is
// converted to float32 once for all heads of a tile.
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

struct AbsorbedTile {
  int64_t sequence, first_row, rows, first_head, heads;  // rows counted from the pass's first
};

struct AbsorbedPass {
  const MlaAttendCall& call;
  int64_t first_row, rows;  // of the step
  float* latent_q;          // (H, rows, R)
  float* mixed;             // (H, rows, R)
};

// One tile in latent space: latent_q and q's rope part to mixed.
template <class T>
void attend_latents(const AbsorbedPass& pass, const AbsorbedTile& cut) {
  const MlaAttendCall& call = pass.call;
  const int64_t latent = call.rank + call.rope, page_width = padded(latent);
  const int64_t row0 = pass.first_row + cut.first_row;
  PairTile tile{};
  tile.rows = cut.rows;
  tile.heads = cut.heads;
  tile.first_position =
      call.batch.starts[cut.sequence] + row0 - call.batch.row_starts[cut.sequence];
  tile.scale = call.scale;
  tile.width = padded(tile.pairs());
  tile.out_width = padded(call.rank);
  Pieces pieces;
  float* converted = nullptr;
  for (int round = 0; round < 2; ++round) {
    tile.queries = pieces.take(latent * tile.width);
    tile.scores = pieces.take(kPage * tile.width);
    tile.out = pieces.take(tile.pairs() * tile.out_width);
    tile.state = {pieces.take(tile.width), pieces.take(tile.width), pieces.take(tile.width)};
    converted = pieces.take(kPage * page_width);
    if (round == 0) pieces.allocate(Scratch::attention_b);
  }
  tile.clear();
  memset(tile.queries, 0, static_cast<size_t>(latent * tile.width) * sizeof(float));
  for (int64_t r = 0; r < cut.rows; ++r)
    for (int64_t h = 0; h < cut.heads; ++h) {
      const int64_t head = cut.first_head + h;
      float* to = tile.queries + r * cut.heads + h;
      transpose_row(pass.latent_q + (head * pass.rows + cut.first_row + r) * call.rank, call.rank,
                    to, tile.width);
      transpose_row(call.q.row(row0 + r) + head * (call.nope + call.rope) + call.nope, call.rope,
                    to + call.rank * tile.width, tile.width);
    }
  const int32_t* table = call.batch.table(cut.sequence);
  const int64_t end = tile.first_position + cut.rows;
  for (int64_t base = 0; base < end; base += kPage) {
    const T* page = static_cast<const T*>(call.pages) + table[base / kPage] * kPage * latent;
    const float* rows = converted;
    if constexpr (std::is_same_v<T, float>) {
      if (latent == page_width) rows = page;
    }
    if (rows == converted)
      convert_rows(page, latent, tile.valid(cut.rows - 1, base), latent, converted, page_width);
    tile.visit(PageRows{rows, page_width, latent, nullptr, 0, 0, rows, page_width}, base);
  }
  for (int64_t r = 0; r < cut.rows; ++r)
    for (int64_t h = 0; h < cut.heads; ++h) {
      const int64_t pair = r * cut.heads + h;
      divide_row(tile.out + pair * tile.out_width, tile.state.sum[pair], call.rank,
                 pass.mixed + ((cut.first_head + h) * pass.rows + cut.first_row + r) * call.rank);
    }
}

// Tiles of the pass's rows; counts only, if tiles is null.
int64_t cut_absorbed(const AbsorbedPass& pass, int64_t heads, AbsorbedTile* tiles) {
  const Batch& batch = pass.call.batch;
  const int64_t pairs = tunables.latent_pairs, height = heads < pairs ? pairs / heads : 1;
  int64_t count = 0;
  for (int64_t b = 0; b < batch.num_sequences; ++b) {
    int64_t row = batch.row_starts[b], end = batch.row_starts[b + 1];
    if (row < pass.first_row) row = pass.first_row;
    if (end > pass.first_row + pass.rows) end = pass.first_row + pass.rows;
    for (; row < end; row += height)
      for (int64_t head = 0; head < pass.call.num_heads; head += heads) {
        const int64_t left = pass.call.num_heads - head, rows = end - row;
        if (tiles != nullptr)
          tiles[count] = AbsorbedTile{b, row - pass.first_row, rows < height ? rows : height, head,
                                      left < heads ? left : heads};
        ++count;
      }
  }
  return count;
}

void run_absorbed(const AbsorbedPass& pass) {
  const MlaAttendCall& call = pass.call;
  const int64_t head_width = call.nope + call.rope;
  parallel_for(call.num_heads, [&](int64_t h) {
    const Rows x{call.q.row(pass.first_row) + h * head_width, call.q.stride, pass.rows};
    linear_on_caller(x, *call.w_uk, h, 0, call.w_uk->num_panels(),
                     Output{pass.latent_q + h * pass.rows * call.rank, call.rank});
  });
  // Fewer heads to a tile when there would be too few tiles; a page is then converted more often.
  int64_t heads = call.num_heads < tunables.latent_pairs ? call.num_heads : tunables.latent_pairs;
  while (heads > 8 && cut_absorbed(pass, heads, nullptr) % num_threads() != 0 &&
         cut_absorbed(pass, heads, nullptr) < 3 * num_threads())
    heads = (heads + 1) / 2;
  const int64_t count = cut_absorbed(pass, heads, nullptr);
  AbsorbedTile* tiles = scratch<AbsorbedTile>(Scratch::attention_d, count);
  cut_absorbed(pass, heads, tiles);
  parallel_for(count, [&](int64_t index) {
    if (call.half) {
      attend_latents<Half>(pass, tiles[index]);
    } else {
      attend_latents<float>(pass, tiles[index]);
    }
  });
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
    for (int64_t i = 0; i < num_tiles_; ++i) begin(tile(i));
    for (int64_t base = 0; base < end; base += tunables.rebuilt_pages * kPage) {
      const int64_t left = end - base, most = tunables.rebuilt_pages * kPage;
      rebuild(base, left < most ? left : most);
      for (int64_t page = base; page < end && page < base + most; page += kPage)
        for (int64_t i = 0; i < num_tiles_; ++i) {
          PairTile rows = tile(i);
          if (rows.first_position + rows.rows > page) rows.visit(rows_of(page - base), page);
        }
    }
    for (int64_t i = 0; i < num_tiles_; ++i) finish(tile(i));
  }

 private:
  void place() {
    const int64_t rows = num_tiles_ * kExpandedRows, block = tunables.rebuilt_pages * kPage;
    latents_ = pieces_.take(block * call_.rank);
    ropes_ = pieces_.take(block * call_.rope);
    kv_ = pieces_.take(block * kv_stride_ + kLanes);  // the last values are read as whole vectors
    queries_ = pieces_.take(rows * (call_.nope + call_.rope));
    scores_ = pieces_.take(kPage * kExpandedRows);
    out_ = pieces_.take(rows * padded(call_.value_dim));
    state_ = {pieces_.take(rows), pieces_.take(rows), pieces_.take(rows)};
  }

  PairTile tile(int64_t i) const {
    const int64_t row = i * kExpandedRows, left = group_.rows - row;
    const int64_t out_width = padded(call_.value_dim);
    return PairTile{left < kExpandedRows ? left : kExpandedRows,
                    1,
                    first_position_ + row,
                    call_.scale,
                    padded(left < kExpandedRows ? left : kExpandedRows),
                    queries_ + row * (call_.nope + call_.rope),
                    scores_,
                    out_ + row * out_width,
                    out_width,
                    {state_.max + row, state_.sum + row, state_.carry + row}};
  }

  int64_t step_row(const PairTile& tile) const {
    return group_.first_row + tile.first_position - first_position_;
  }

  void begin(PairTile tile) {
    const int64_t dim = call_.nope + call_.rope;
    tile.clear();
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

  PageRows rows_of(int64_t offset) const {
    const float* kv = kv_ + offset * kv_stride_ + skipped_;
    return PageRows{kv,         kv_stride_,      call_.nope, ropes_ + offset * call_.rope,
                    call_.rope, call_.rope,      kv + call_.nope, kv_stride_};
  }

  void finish(const PairTile& tile) {
    for (int64_t r = 0; r < tile.rows; ++r)
      divide_row(tile.out + r * tile.out_width, tile.state.sum[r], call_.value_dim,
                 call_.out.row(step_row(tile) + r) + group_.head * call_.value_dim);
  }

  const MlaAttendCall& call_;
  const ExpandedGroup& group_;
  Pieces pieces_;
  int64_t first_panel_, end_panel_, skipped_, kv_stride_, num_tiles_, first_position_;
  float *latents_, *ropes_, *kv_, *queries_, *scores_, *out_;
  SoftmaxState state_;
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
