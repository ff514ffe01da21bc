"""From logits to tokens.

Order of the steps, as in vLLM (OpenAI documents the formulas of 1 and 3, not the order).  Where a
grammar is followed, only the tokens that continue it are there for any of them.

1. logit_bias is added.
2. repetition_penalty r, over prompt and generated tokens: a positive logit is divided by r, a
   negative one multiplied.
3. frequency_penalty * count + presence_penalty is subtracted, over generated tokens only.
4. temperature 0 takes the largest logit (the lowest id among equals) and ends here; else divide.
5. min_p drops tokens less probable than min_p times the most probable one.
6. top_k keeps the k largest (lower ids first among equals).
7. top_p keeps the smallest set of the most probable tokens left that reaches top_p.
8. Inverse transform: the first token, by rising id, at which the running sum of the kept
   probabilities exceeds u times their sum.

u is a hash of (seed, choice, position) alone and every row is treated by itself, so a token does
not depend on what else is in the batch, nor on a restart.  Log-probabilities are those of the
model's own distribution: before bias, penalties, temperature and truncation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tribody.core.request import SampledToken, SampleSlot, SamplingParams, TokenLogprob
from tribody.engine.guidance import LOST, Guidance
from tribody.ops.table import F32, Ops

I64 = NDArray[np.int64]

SUM_PIECE = 256  # about the square root of a vocabulary, so that both levels are short


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, a function of its arguments alone."""
    key = f"{seed},{choice},{position}".encode()
    digest = hashlib.blake2b(key, digest_size=8, person=b"tribody.sample").digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


UNUSABLE = (
    "the model computed NaN or infinity for this sequence; its weights are damaged, or overflow in "
    "this number format (try dtype float32)"
)


UNUSABLE_ROW, SKIPPED, LOST_TOKEN = -1, -2, -3  # in place of a token id

_ERRORS = {UNUSABLE_ROW: UNUSABLE, LOST_TOKEN: LOST}


def sample(
    ops: Ops,
    logits: F32,
    slots: Sequence[SampleSlot],
    rows: I64,
    guidance: Guidance | None = None,
) -> list[SampledToken]:
    """One token per slot; slot i draws from logits[rows[i]], several may share a row.

    A slot with drafts draws only if the slot before it drew the last of them, and is skipped else.
    A row that is not finite at its largest value gives `SampledToken.error` and token id -1.  (The
    model sets a row to NaN throughout when its hidden state is not finite.)  So does a grammar that
    gave up.  `guidance` is there if a slot's parameters name a grammar.
    """
    largest = np.empty(len(logits), np.int32)
    ops.argmax(logits, largest)
    best: list[int] = largest.tolist()
    # One by one: a step has few rows, and few functions of NumPy, which a step that has filled the
    # caches with weights finds cold.
    usable = [math.isfinite(logits.item(row, token)) for row, token in enumerate(best)]
    tokens: list[int] = []
    for slot, row in zip(slots, rows.tolist(), strict=True):
        if slot.drafts and tokens[-1] != slot.drafts[-1]:
            tokens.append(SKIPPED)
        elif not usable[row]:
            tokens.append(UNUSABLE_ROW)
        elif guidance is not None and slot.params.grammar is not None:
            tokens.append(_draw_guided(logits[row], slot, guidance, best[row]))
        elif _is_plain_greedy(slot.params):
            tokens.append(best[row])
        else:
            tokens.append(draw(logits[row], slot))
    logprobs = _logprobs(ops, logits, slots, rows, tokens)
    return [
        SampledToken(
            slot.sequence_id,
            token,
            logprob,
            error=_ERRORS.get(token),
            skipped=token == SKIPPED,
        )
        for slot, token, logprob in zip(slots, tokens, logprobs, strict=True)
    ]


def _is_plain_greedy(params: SamplingParams) -> bool:
    return params.temperature == 0 and not _changes_logits(params)


def _changes_logits(params: SamplingParams) -> bool:
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1
        or params.frequency_penalty
        or params.presence_penalty
    )


def _draw_guided(logits: F32, slot: SampleSlot, guidance: Guidance, best: int) -> int:
    """One token of those that the grammar allows; `best` is the likeliest of all."""
    mask = guidance.mask(slot)
    if mask is None:
        return LOST_TOKEN
    if _is_plain_greedy(slot.params) and mask[best >> 3] >> (best & 7) & 1:
        return best
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(logits), bitorder="little")
    allowed = np.flatnonzero(bits)
    if not len(allowed):
        return LOST_TOKEN
    return draw(logits, slot, allowed)


def draw(logits: F32, slot: SampleSlot, allowed: I64 | None = None) -> int:
    """One token from one row (V,), of `allowed` (rising ids) if given; the row is not changed."""
    values = _adjusted(logits, slot) if _changes_logits(slot.params) else logits
    if allowed is None:
        return _drawn(values, slot)
    return int(allowed[_drawn(values[allowed], slot)])


def _drawn(values: F32, slot: SampleSlot) -> int:
    """Steps 4 to 8."""
    params = slot.params
    largest = int(np.argmax(values))
    if params.temperature == 0:
        return largest
    # Shifting before the division keeps the smallest temperature from overflowing.
    shifted = (values - values[largest]) / np.float32(params.temperature)
    weights = np.exp(shifted)
    if params.min_p > 0:
        weights[weights < np.float32(params.min_p)] = 0
    if 0 < params.top_k < len(weights):
        weights[~_largest(weights, params.top_k)] = 0
    if params.top_p < 1:
        weights[~_nucleus(weights, params.top_p)] = 0
    return _invert(weights, uniform(params.seed, slot.choice, slot.position))


def _invert(weights: F32, u: float) -> int:
    """The first index at which the running sum exceeds u times the sum.

    Two levels, sums of 256 weights and then one such piece: a running sum over a whole vocabulary
    is the slowest part of a draw (about 0.1 ms of 0.2 for 49,152 tokens).
    """
    piece_sums = np.add.reduceat(weights, np.arange(0, len(weights), SUM_PIECE))
    sums = np.cumsum(piece_sums, dtype=np.float64)
    target = min(u * sums[-1], np.nextafter(sums[-1], 0))  # the product may round up to the sum
    piece = int(np.searchsorted(sums, target, side="right"))
    first = piece * SUM_PIECE
    inside = weights[first : first + SUM_PIECE]
    before = sums[piece - 1] if piece else 0.0
    place = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), target - before, side="right"))
    # A piece's float32 sum may be rounded up past its last running sum.
    return first + min(place, int(np.flatnonzero(inside)[-1]))


def _adjusted(logits: F32, slot: SampleSlot) -> F32:
    """Steps 1 to 3 on a copy."""
    params, values = slot.params, logits.copy()
    generated = slot.generated + slot.drafts if slot.drafts else slot.generated
    for token, bias in params.logit_bias.items():
        values[token] += np.float32(bias)
    if params.repetition_penalty != 1:
        # Equal ids read the same value and write the same result, so repeats do no harm.
        seen = np.array(slot.prompt_token_ids + generated, np.int64)
        old, penalty = values[seen], np.float32(params.repetition_penalty)
        values[seen] = np.where(old > 0, old / penalty, old * penalty)
    if (params.frequency_penalty or params.presence_penalty) and generated:
        ids, counts = np.unique(np.array(generated, np.int64), return_counts=True)
        values[ids] -= np.float32(params.frequency_penalty) * counts.astype(np.float32)
        values[ids] -= np.float32(params.presence_penalty)
    return values


def _largest(weights: F32, count: int) -> NDArray[np.bool_]:
    """A mask of the `count` largest; among equals at the edge the lower ids are kept."""
    edge = np.partition(weights, len(weights) - count)[len(weights) - count]
    kept: NDArray[np.bool_] = weights > edge
    equal = np.flatnonzero(weights == edge)
    kept[equal[: count - int(kept.sum())]] = True
    return kept


def _nucleus(weights: F32, share: float) -> NDArray[np.bool_]:
    """A mask of the smallest set of the largest weights that holds `share` of their sum.

    Sorting a vocabulary takes longer than a small model's decode step.  Tokens so light that all
    V of them together would fit in the share left out cannot be in the set and are passed over
    (at half that weight, for rounding).  Of the others: positive float32 numbers sort as their bits
    do, so sums over the upper 16 bits tell which such class the edge lies in, and only its members
    are sorted, lower ids first among equals.  At least one token is kept.
    """
    total = float(weights.sum(dtype=np.float64))
    lightest = np.float32(0.5 * (1 - share) * total / len(weights))
    is_heavy = weights >= lightest
    few = 2 * np.count_nonzero(is_heavy) < len(
        weights
    )  # else picking them takes as long as the rest
    candidates: I64 | slice = np.flatnonzero(is_heavy) if few else slice(None)
    heavy = weights[candidates]
    classes = heavy.view(np.uint32) >> 16
    sums = np.cumsum(np.bincount(classes, weights=heavy)[::-1])  # the largest class first
    wanted = min(share * total, float(sums[-1]))
    place = int(np.searchsorted(sums, wanted, side="left"))
    edge = len(sums) - 1 - place
    members = np.flatnonzero(classes == edge)
    ranked = members[np.argsort(-heavy[members], kind="stable")]
    before = float(sums[place - 1]) if place else 0.0
    inside = before + np.cumsum(heavy[ranked], dtype=np.float64)
    last = int(np.searchsorted(inside, wanted, side="left"))
    chosen = classes > edge
    chosen[ranked[: last + 1]] = True
    kept = np.zeros(len(weights), np.bool_)
    kept[candidates] = chosen
    return kept


def _logprobs(
    ops: Ops, logits: F32, slots: Sequence[SampleSlot], rows: I64, tokens: Sequence[int]
) -> list[TokenLogprob | None]:
    """The chosen token's natural-log probability and the best of its row, where asked for."""
    wanted = [i for i, slot in enumerate(slots) if slot.params.num_logprobs >= 0 <= tokens[i]]
    results: list[TokenLogprob | None] = [None] * len(slots)
    if not wanted:
        return results
    count = max(1, *(slots[i].params.num_logprobs for i in wanted))
    picked = np.ascontiguousarray(logits[rows[wanted]])
    ids, best, log_sums = ops.top_logprobs(picked, min(count, picked.shape[1]))
    for place, i in enumerate(wanted):
        top = slots[i].params.num_logprobs
        pairs = zip(ids[place, :top].tolist(), best[place, :top].tolist(), strict=True)
        chosen = float(picked[place, tokens[i]] - log_sums[place])
        results[i] = TokenLogprob(tokens[i], chosen, list(pairs))
    return results
