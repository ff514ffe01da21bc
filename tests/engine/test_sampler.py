"""The sampler: order of the steps, edges, and independence from the batch."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tribody.core.request import SampleSlot, SamplingParams
from tribody.engine.sampler import _nucleus, draw, sample, uniform
from tribody.ops import reference

V = 50


def row(seed: int = 0, size: int = V) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


def slot(
    *,
    position: int = 0,
    choice: int = 0,
    prompt: tuple[int, ...] = (1, 2),
    generated: tuple[int, ...] = (),
    **params: object,
) -> SampleSlot:
    defaults: dict[str, object] = {"max_tokens": 9}
    sampling = SamplingParams(**(defaults | params))  # type: ignore[arg-type]
    return SampleSlot(
        sequence_id=7,
        choice=choice,
        position=position,
        params=sampling,
        prompt_token_ids=list(prompt),
        generated=list(generated),
        request_id="r",
    )


def frequencies(
    logits: NDArray[np.float32], draws: int = 4000, **params: object
) -> NDArray[np.float64]:
    counts = np.zeros(len(logits))
    for position in range(draws):
        asked = slot(position=position, seed=11, **params)  # type: ignore[arg-type]
        counts[draw(logits, asked)] += 1
    return counts / draws


def probabilities(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    wide = logits.astype(np.float64) / temperature
    weights = np.exp(wide - wide.max())
    return np.asarray(weights / weights.sum())


def spread(p: NDArray[np.float64], draws: int = 4000) -> NDArray[np.float64]:
    """Five standard deviations of an observed frequency, plus one draw."""
    return np.asarray(5 * np.sqrt(p * (1 - p) / draws) + 1 / draws)


def test_uniform_is_fixed_and_depends_on_each_argument() -> None:
    """These values are part of the promise: a restart or a new version continues the stream."""
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    values = {
        uniform(1, 2, 3),
        uniform(3, 2, 1),
        uniform(1, 23, 0),
        uniform(12, 3, 0),
        uniform(1, 2, 4),
    }
    assert len(values) == 5
    assert uniform(0, 0, 0) == pytest.approx(FIRST_UNIFORM, abs=0)
    many = np.array([uniform(5, 0, i) for i in range(4000)])
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 5 / math.sqrt(12 * 4000)


FIRST_UNIFORM = 0.890197566672464


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.zeros((1, V), np.float32)
    logits[0, [9, 30]] = 5
    [token] = sample(reference.OPS, logits, [slot(temperature=0.0)], np.array([0]))
    assert token.token_id == 9
    assert token.sequence_id == 7
    assert draw(logits[0], slot(temperature=0.0, presence_penalty=1.0, generated=(9,))) == 30


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    expected = probabilities(row(), temperature)
    found = frequencies(row(), temperature=temperature)
    assert (np.abs(found - expected) <= spread(expected)).all()


def test_a_tiny_temperature_is_greedy() -> None:
    assert draw(row(), slot(temperature=1e-30)) == int(row().argmax())


def test_top_k_keeps_exactly_k_and_lower_ids_among_equals() -> None:
    found = frequencies(row(), top_k=3)
    assert set(np.flatnonzero(found)) == set(np.argsort(-row())[:3])
    flat = np.zeros(V, np.float32)
    assert set(np.flatnonzero(frequencies(flat, 300, top_k=2))) == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_the_share() -> None:
    expected = probabilities(row())
    ranked = np.argsort(-expected)
    size = int(np.searchsorted(np.cumsum(expected[ranked]), 0.7)) + 1
    found = frequencies(row(), top_p=0.7)
    assert set(np.flatnonzero(found)) <= set(ranked[:size])
    kept = np.zeros(V)
    kept[ranked[:size]] = expected[ranked[:size]] / expected[ranked[:size]].sum()
    assert (np.abs(found - kept) <= spread(kept)).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("size", [1, 2, 5000])
def test_top_p_equals_a_full_sort(share: float, size: int) -> None:
    """Against the definition: sort all, cut where the running sum reaches the share."""
    for seed in range(5):
        weights = np.exp(row(seed, size) - row(seed, size).max()).astype(np.float32)
        weights[1::7] = 0  # as top_k leaves them
        ranked = np.argsort(-weights, kind="stable")
        sums = np.cumsum(weights[ranked], dtype=np.float64)
        last = int(np.searchsorted(sums, share * sums[-1]))
        expected = set(ranked[: last + 1].tolist())
        found = set(np.flatnonzero(_nucleus(weights, share) & (weights > 0)).tolist())
        assert found == expected


def test_top_p_over_equal_tokens_keeps_the_lower_ids() -> None:
    tokens = {draw(np.zeros(3000, np.float32), slot(position=i, top_p=0.5)) for i in range(400)}
    assert max(tokens) < 1500
    assert max(tokens) > 1024


def test_a_vanishing_top_p_keeps_one_token() -> None:
    assert draw(row(), slot(top_p=1e-9)) == int(row().argmax())


def test_min_p_is_relative_to_the_best() -> None:
    expected = probabilities(row())
    allowed = set(np.flatnonzero(expected >= 0.2 * expected.max()))
    assert set(np.flatnonzero(frequencies(row(), min_p=0.2))) == allowed


def test_top_p_counts_what_top_k_left() -> None:
    """Four equal tokens: top_k 2 leaves two halves, so top_p 0.4 is met by the first alone."""
    flat = np.zeros(4, np.float32)
    assert set(np.flatnonzero(frequencies(flat, 200, top_k=2, top_p=0.4))) == {0}


def test_penalties() -> None:
    """repetition over prompt and generated; frequency and presence over generated only."""
    logits = np.array([2.0, -2.0, 1.9, 1.0], np.float32)
    greedy = {"temperature": 0.0, "prompt": (0,)}
    assert draw(logits, slot(**greedy)) == 0  # type: ignore[arg-type]
    assert draw(logits, slot(repetition_penalty=1.5, **greedy)) == 2  # type: ignore[arg-type]
    assert draw(logits, slot(presence_penalty=2.0, **greedy)) == 0  # type: ignore[arg-type]
    assert draw(logits, slot(presence_penalty=0.2, generated=(0, 0), **greedy)) == 2  # type: ignore[arg-type]
    assert draw(logits, slot(frequency_penalty=0.04, generated=(0, 0), **greedy)) == 0  # type: ignore[arg-type]
    assert draw(logits, slot(frequency_penalty=0.06, generated=(0, 0), **greedy)) == 2  # type: ignore[arg-type]
    assert draw(logits, slot(logit_bias={3: 1.5}, **greedy)) == 3  # type: ignore[arg-type]
    negative = np.array([-1.0, -1.2], np.float32)
    assert draw(negative, slot(temperature=0.0, prompt=(0,), repetition_penalty=1.5)) == 1


def test_a_token_does_not_depend_on_the_batch() -> None:
    logits = np.stack([row(i) for i in range(6)])
    slots = [slot(position=i, seed=i, top_p=0.9, num_logprobs=i - 1) for i in range(6)]
    together = sample(reference.OPS, logits, slots, np.arange(6))
    for i, expected in enumerate(together):
        [alone] = sample(reference.OPS, logits[i : i + 1].copy(), [slots[i]], np.array([0]))
        assert alone == expected


def test_choices_share_a_row_but_not_their_numbers() -> None:
    flat = np.zeros((1, 1000), np.float32)
    slots = [slot(choice=c, seed=3) for c in range(4)]
    tokens = sample(reference.OPS, flat, slots, np.zeros(4, np.int64))
    assert len({t.token_id for t in tokens}) == 4


def test_logprobs_are_of_the_raw_distribution() -> None:
    """Neither temperature nor penalties nor top_k change what is reported."""
    logits = row(3)[None]
    wide = logits[0].astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    asked = slot(temperature=0.3, top_k=1, num_logprobs=5, logit_bias={4: 100.0})
    [token] = sample(reference.OPS, logits, [asked], np.array([0]))
    assert token.token_id == 4
    assert token.logprob is not None
    eps = V * 2.0**-23 * np.abs(expected).max()
    assert token.logprob.logprob == pytest.approx(expected[4], abs=eps)
    assert [t for t, _ in token.logprob.top] == list(np.argsort(-expected)[:5])
    assert [p for _, p in token.logprob.top] == pytest.approx(np.sort(expected)[::-1][:5], abs=eps)
    [bare] = sample(reference.OPS, logits, [slot(num_logprobs=0)], np.array([0]))
    assert bare.logprob is not None
    assert bare.logprob.top == []


def test_logits_that_are_not_numbers_fail_one_choice_only() -> None:
    logits = np.stack([row(1), np.full(V, np.nan, np.float32), row(2)])
    slots = [slot(temperature=t, num_logprobs=2) for t in (0.0, 1.0, 0.0)]
    first, bad, last = sample(reference.OPS, logits, slots, np.arange(3))
    assert bad.error is not None
    assert bad.logprob is None
    assert (first.error, last.error) == (None, None)
    assert (first.token_id, last.token_id) == (int(row(1).argmax()), int(row(2).argmax()))
