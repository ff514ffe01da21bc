"""How far one model's next-token distributions are from another's, on the same tokens.

Both are teacher-forced: every token is predicted from the true tokens before it.  Logits are
compared piece by piece and forgotten; kept are one float64 (the KL divergence) per predicted token
and six sums per chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tribody.core.errors import EngineFailed
from tribody.ops.table import F32, I64
from tribody.quality.chunks import Chunk
from tribody.quality.logits import LoadedModel
from tribody.quality.progress import Watcher
from tribody.quality.statistics import (
    F64,
    Interval,
    bootstrap_means,
    mcnemar_p,
    percentile_interval,
)

BOOTSTRAP_SEED = 1

VALUES_AT_ONCE = 1 << 21
# Logits taken to float64 at a time: about six arrays of 16 MB, whatever the vocabulary.


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """One precision against the reference on one corpus.  Formulas: docs/quality.md.

    Perplexity is per token.  KL is reference || other, in nats per token.  Intervals are 95 %,
    paired, by a bootstrap over chunks; null with a single chunk.  Flips are of the true token being
    the most likely one; the p-value is McNemar's, as if tokens did not depend on each other.
    """

    corpus: str
    num_chunks: int
    num_predicted_tokens: int
    reference_perplexity: float
    perplexity: float
    perplexity_ratio: float
    perplexity_ratio_interval: Interval | None
    kl_mean_nats: float
    kl_mean_interval_nats: Interval | None
    kl_p99_nats: float
    kl_max_nats: float
    top1_agreement: float
    top1_agreement_interval: Interval | None
    correct_to_wrong: int
    wrong_to_correct: int
    mcnemar_p: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """Per predicted token (R,): negative log-likelihoods, KL divergence; 1 or 0: same most likely
    token, it was the true one and is no longer, it was not and is."""

    reference_nll: F64
    nll: F64
    kl: F64
    agrees: F64
    lost: F64
    gained: F64


def compare(
    reference: LoadedModel,
    other: LoadedModel,
    corpus: str,
    chunks: Sequence[Chunk],
    watcher: Watcher,
) -> Distance:
    """Run both models over the chunks (at least one).

    Raises: EngineFailed when one of them gives logits that are not numbers.
    """
    sums = np.zeros((len(chunks), 6), np.float64)
    divergences: list[F64] = []
    for row, chunk in zip(sums, chunks, strict=True):
        for part in _chunk_rows(reference, other, chunk):
            row += [
                part.reference_nll.sum(),
                part.nll.sum(),
                part.kl.sum(),
                part.agrees.sum(),
                part.lost.sum(),
                part.gained.sum(),
            ]
            divergences.append(part.kl)
        watcher.advance(chunk.num_predicted)
    counts = np.array([chunk.num_predicted for chunk in chunks], np.float64)
    return _distance(corpus, sums, counts, np.concatenate(divergences))


def _distance(corpus: str, sums: F64, counts: F64, kl: F64) -> Distance:
    means = sums.sum(axis=0) / counts.sum()
    draws = bootstrap_means(sums, counts, BOOTSTRAP_SEED)
    lost, gained = (int(count) for count in sums[:, 4:].sum(axis=0))
    return Distance(
        corpus=corpus,
        num_chunks=len(counts),
        num_predicted_tokens=len(kl),
        reference_perplexity=float(np.exp(means[0])),
        perplexity=float(np.exp(means[1])),
        perplexity_ratio=float(np.exp(means[1] - means[0])),
        perplexity_ratio_interval=_interval(
            None if draws is None else np.exp(draws[:, 1] - draws[:, 0])
        ),
        kl_mean_nats=float(means[2]),
        kl_mean_interval_nats=_interval(None if draws is None else draws[:, 2]),
        kl_p99_nats=float(np.quantile(kl, 0.99)),
        kl_max_nats=float(kl.max()),
        top1_agreement=float(means[3]),
        top1_agreement_interval=_interval(None if draws is None else draws[:, 3]),
        correct_to_wrong=lost,
        wrong_to_correct=gained,
        mcnemar_p=mcnemar_p(lost, gained),
    )


def _interval(draws: F64 | None) -> Interval | None:
    return None if draws is None else percentile_interval(draws)


def _chunk_rows(reference: LoadedModel, other: LoadedModel, chunk: Chunk) -> list[_Rows]:
    read = chunk.token_ids[:-1]
    targets = np.array(chunk.token_ids, np.int64)
    pairs = zip(
        reference.logits(read, chunk.first - 1), other.logits(read, chunk.first - 1), strict=True
    )
    rows = []
    for (position, expected), (same_position, given) in pairs:
        assert position == same_position, "the pieces depend on lengths only"
        step = max(1, VALUES_AT_ONCE // expected.shape[1])
        for start, end in itertools.pairwise([*range(0, len(expected), step), len(expected)]):
            _check_numbers(reference, expected[start:end])
            _check_numbers(other, given[start:end])
            wanted = targets[position + start + 1 : position + end + 1]
            rows.append(compare_rows(expected[start:end], given[start:end], wanted))
    return rows


def _check_numbers(model: LoadedModel, logits: F32) -> None:
    if not np.isfinite(logits).all():
        raise EngineFailed(
            f"{model.precision.name}: the model's logits are not numbers; leave this format out, "
            "or run the model with --format bfloat16 (float16 overflows above 65504)"
        )


def compare_rows(expected: F32, given: F32, targets: I64) -> _Rows:
    """Both models' logits (R, V) and the true next tokens (R,); sums in float64."""
    log_p, log_q = log_softmax(expected), log_softmax(given)
    at = np.arange(len(targets))
    first, second = expected.argmax(axis=1), given.argmax(axis=1)
    was_right, is_right = first == targets, second == targets
    kl = np.einsum("rv,rv->r", np.exp(log_p), log_p - log_q)
    return _Rows(
        reference_nll=-log_p[at, targets],
        nll=-log_q[at, targets],
        # A divergence is never negative; rounding of the sums can leave -1e-16.
        kl=np.maximum(kl, 0.0),
        agrees=(first == second).astype(np.float64),
        lost=(was_right & ~is_right).astype(np.float64),
        gained=(is_right & ~was_right).astype(np.float64),
    )


def log_softmax(logits: F32) -> F64:
    """float64 (R, V), natural logarithm."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide
