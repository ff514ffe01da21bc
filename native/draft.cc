// The drafter: the module's layer between its projection and the model's head, pass after pass.
#include "draft.h"

#include <string.h>

#include "pack.h"

namespace tribody::TRIBODY_ISA {
namespace {

class DraftRun {
 public:
  explicit DraftRun(const DraftCall& call) : call_(call), size_(call.hidden_size()) {
    const int64_t heads = call.num_heads, rows = call.layer.step.rows;
    const int64_t most = rows > heads ? rows : heads;
    joined_ = {scratch<float>(Scratch::draft_joined, most * 2 * size_), 2 * size_};
    x_ = {scratch<float>(Scratch::draft_x, (most + heads) * size_), size_};
    said_ = {x_.row(most), size_};
    logits_ = scratch<float>(Scratch::draft_logits, heads * call.lm_head.rows);
    const int64_t width = call.layer.step.batch.table_length;
    auto* numbers = scratch<int32_t>(Scratch::draft_numbers, heads * (6 + width) + 1);
    kept_ = numbers;
    sequences_ = kept_ + heads;
    ids_ = sequences_ + heads;
    best_ = ids_ + heads;
    starts_ = best_ + heads;
    row_starts_ = starts_ + heads;
    tables_ = row_starts_ + heads + 1;
    slots_ = scratch<int64_t>(Scratch::draft_slots, heads);
    angles_ = scratch<float>(Scratch::draft_angles, heads * call.layer.rope);
  }

  void run() {
    LatentCall layer = call_.layer;
    const LayerStep& step = layer.step;
    for (int64_t t = 0; t < step.rows; ++t) see(t, call_.hidden.row(t));
    compute(layer, call_.token_ids, step.rows);
    num_kept_ = call_.num_heads;
    for (int64_t r = 0; r < num_kept_; ++r) {
      kept_[r] = static_cast<int32_t>(r);
      sequences_[r] = r == 0 ? 0 : sequences_[r - 1];
      while (step.batch.row_starts[sequences_[r] + 1] <= call_.heads[r]) ++sequences_[r];
      keep_state(r, x_.row(call_.heads[r]));
    }
    say(0);
    for (int64_t pass = 1; pass < call_.passes; ++pass) {
      go_on(pass, layer);
      if (num_kept_ > 0) {
        compute(layer, ids_, num_kept_);
        for (int64_t i = 0; i < num_kept_; ++i) keep_state(i, x_.row(i));
      }
      say(pass);
    }
  }

 private:
  // The state that row `row` of the next pass joins with its token.
  void see(int64_t row, const float* state) {
    normalize_row(state, {call_.hnorm, call_.layer.eps}, size_, joined_.row(row) + size_);
  }

  // The module's rows of these tokens into x.
  void compute(LatentCall& layer, const int32_t* ids, int64_t rows) {
    embed({call_.embed_tokens, ids, rows, joined_.data, joined_.stride});
    const Rows embedded{joined_.data, joined_.stride, rows};
    rms_norm(embedded, {call_.enorm, layer.eps}, size_, joined_.data, joined_.stride);
    linear({embedded, {}, call_.eh_proj, {x_.data, x_.stride}});
    layer.step.x = x_;
    latent_layers(layer);
  }

  // The i-th kept sequence's output of this pass.
  void keep_state(int64_t i, const float* x) {
    float* said = said_.row(i);
    normalize_row(x, {call_.norm, call_.layer.eps}, size_, said);
    memcpy(call_.states.row(kept_[i]), said, static_cast<size_t>(size_) * sizeof(float));
  }

  // The likeliest tokens of the kept sequences; -1 for the others.
  void say(int64_t pass) {
    int32_t* tokens = call_.tokens + pass * call_.num_heads;
    for (int64_t r = 0; r < call_.num_heads; ++r) tokens[r] = -1;
    if (num_kept_ == 0) return;
    const int64_t vocabulary = call_.lm_head.rows;
    linear({{said_.data, size_, num_kept_}, {}, call_.lm_head, {logits_, vocabulary}});
    argmax({logits_, vocabulary, num_kept_}, vocabulary, best_);
    for (int64_t i = 0; i < num_kept_; ++i) tokens[kept_[i]] = best_[i];
  }

  // The step of a later pass: one row for each sequence whose pages reach that far, its last guess.
  void go_on(int64_t pass, LatentCall& layer) {
    const Batch& first = call_.layer.step.batch;
    const int64_t half = call_.layer.rope / 2;
    int64_t kept = 0;
    for (int64_t i = 0; i < num_kept_; ++i) {
      const int32_t r = kept_[i], sequence = sequences_[r];
      const int64_t position = first.starts[sequence] + first.rows(sequence) + pass - 1;
      const int32_t* table = first.table(sequence);
      const int64_t place = position / kPage;
      if (place >= first.table_length || table[place] < 0) continue;
      kept_[kept] = r;
      ids_[kept] = best_[i];
      starts_[kept] = static_cast<int32_t>(position);
      row_starts_[kept] = static_cast<int32_t>(kept);
      slots_[kept] = int64_t{table[place]} * kPage + position % kPage;
      memcpy(tables_ + kept * first.table_length, table,
             static_cast<size_t>(place + 1) * sizeof(int32_t));
      float* angles = angles_ + kept * 2 * half;
      memcpy(angles, call_.cos.row(position), static_cast<size_t>(half) * sizeof(float));
      memcpy(angles + half, call_.sin.row(position), static_cast<size_t>(half) * sizeof(float));
      see(kept++, call_.states.row(r));
    }
    num_kept_ = kept;
    row_starts_[kept] = static_cast<int32_t>(kept);
    LayerStep& step = layer.step;
    step.rows = step.num_generated = kept;
    step.cos = {angles_, 2 * half};
    step.sin = {angles_ + half, 2 * half};
    step.slots = slots_;
    step.batch = {kept, row_starts_, starts_, tables_, first.table_length, first.table_length};
  }

  const DraftCall& call_;
  int64_t size_, num_kept_ = 0;
  Array2<float> joined_, x_, said_;
  float *logits_, *angles_;
  int32_t *kept_, *sequences_, *ids_, *best_, *starts_, *row_starts_, *tables_;
  int64_t* slots_;
};

}  // namespace

void draft(const DraftCall& call) {
  if (call.layer.step.rows > 0 && call.passes > 0) DraftRun(call).run();
}

}  // namespace tribody::TRIBODY_ISA
