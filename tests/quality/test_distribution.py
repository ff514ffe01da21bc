"""Distances between two sets of logits: exact where both are the same, seen where they are not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.engine.model_folder import BOS
from tests.models.tiny import tiny_tokens
from tests.quality.conftest import Stages
from tests.quality.items import sample
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig, EngineFailed
from tribody.engine.llm import LLM
from tribody.quality.answers import template_of
from tribody.quality.chunks import Chunk, task_chunks, text_chunks
from tribody.quality.distribution import VALUES_AT_ONCE, compare, compare_rows, log_softmax
from tribody.quality.logits import REFERENCE, LoadedModel, Precision, parse_precision

CHUNKS = [Chunk(tiny_tokens(200 - 30 * seed, seed), 1 + 20 * seed) for seed in range(4)]


def test_rows_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = ln 2 / 4."""
    expected = np.log(np.array([[2, 1, 1]], np.float32))
    given = np.log(np.array([[1, 2, 1]], np.float32))
    rows = compare_rows(expected, given, np.array([2]))
    assert rows.kl == pytest.approx(math.log(2) / 4, rel=1e-6)
    assert rows.nll == pytest.approx(math.log(4), rel=1e-6)
    assert rows.reference_nll == pytest.approx(math.log(4), rel=1e-6)
    assert rows.agrees.tolist() == [0.0]


def test_a_flip_is_a_true_token_won_or_lost() -> None:
    first, second = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]], np.eye(3, dtype=np.float32)
    rows = compare_rows(first, second[[1, 1, 0, 0]], np.array([0, 1, 0, 2]))
    assert rows.lost.tolist() == [1, 0, 0, 0]
    assert rows.gained.tolist() == [0, 1, 0, 0]


def test_log_softmax_takes_any_size() -> None:
    logits = np.array([[3e38, 0.0], [-3e38, -3e38], [1e-30, 0.0]], np.float32)
    assert np.exp(log_softmax(logits)).sum(axis=1) == pytest.approx(1.0)


def test_a_model_has_no_distance_to_itself(
    tiny_config: EngineConfig, exact: LoadedModel, stages: Stages
) -> None:
    again = LoadedModel(tiny_config, REFERENCE)
    stages.begin("test", sum(chunk.num_predicted for chunk in CHUNKS))
    distance = compare(exact, again, "random", CHUNKS, stages)
    assert stages.left == [0]
    assert distance.perplexity_ratio == 1.0
    assert distance.perplexity == distance.reference_perplexity
    assert (distance.kl_mean_nats, distance.kl_p99_nats, distance.kl_max_nats) == (0.0, 0.0, 0.0)
    assert distance.top1_agreement == 1.0
    assert (distance.correct_to_wrong, distance.wrong_to_correct) == (0, 0)
    interval = distance.perplexity_ratio_interval
    assert interval is not None
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_a_coarser_format_is_farther_than_the_noise(
    tiny_config: EngineConfig, exact: LoadedModel, coarse: LoadedModel, stages: Stages
) -> None:
    by_numpy = LoadedModel(tiny_config, REFERENCE, "reference")
    noise = compare(exact, by_numpy, "random", CHUNKS, stages)
    coarser = compare(exact, coarse, "random", CHUNKS, stages)
    assert 0 < noise.kl_mean_nats < 1e-9 < 1e-4 < coarser.kl_mean_nats
    assert coarser.kl_mean_nats < coarser.kl_p99_nats < coarser.kl_max_nats
    assert coarser.top1_agreement < 1.0
    for distance in (noise, coarser):
        ratio, mean = distance.perplexity_ratio_interval, distance.kl_mean_interval_nats
        assert ratio is not None
        assert mean is not None
        assert ratio.low < distance.perplexity_ratio < ratio.high
        assert mean.low < distance.kl_mean_nats < mean.high


def test_perplexity_is_what_the_logits_say(
    tiny_folder: Path, exact: LoadedModel, coarse: LoadedModel, stages: Stages
) -> None:
    """Against `LLM.score`, which takes another way to the same log probabilities."""
    llm = LLM(tiny_folder, dtype="float32", kv_budget_bytes=1 << 22, num_threads=1)
    logprobs: list[float] = []
    for chunk in CHUNKS:
        score = llm.score(chunk.token_ids[: chunk.first], chunk.token_ids[chunk.first :])
        logprobs += score.token_logprobs
    distance = compare(exact, coarse, "random", CHUNKS, stages)
    assert distance.num_predicted_tokens == len(logprobs)
    assert distance.reference_perplexity == pytest.approx(math.exp(-np.mean(logprobs)), rel=1e-5)


def test_many_rows_are_compared_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch, exact: LoadedModel, coarse: LoadedModel, stages: Stages
) -> None:
    whole = compare(exact, coarse, "random", CHUNKS, stages)
    assert VALUES_AT_ONCE > 200 * 258
    monkeypatch.setattr("tribody.quality.distribution.VALUES_AT_ONCE", 7 * 258)
    parts = compare(exact, coarse, "random", CHUNKS, stages)
    assert parts.kl_mean_nats == pytest.approx(whole.kl_mean_nats, rel=1e-12)
    assert parts.kl_max_nats == whole.kl_max_nats


def test_logits_that_are_not_numbers_are_an_error(
    monkeypatch: pytest.MonkeyPatch, exact: LoadedModel, coarse: LoadedModel, stages: Stages
) -> None:
    def broken(_token_ids: object, first: int) -> object:
        yield first, np.full((1, 258), np.nan, np.float32)

    monkeypatch.setattr(coarse, "logits", broken)
    with pytest.raises(EngineFailed, match="w8g32"):
        compare(exact, coarse, "random", [Chunk([1, 2], 1)], stages)


def test_text_is_cut_without_loss(exact: LoadedModel) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    chunks = text_chunks(exact, text, 10, 1000)
    assert sum(len(chunk.token_ids) for chunk in chunks) == len(text)
    assert {chunk.first for chunk in chunks} == {1}
    assert [len(chunk.token_ids) for chunk in chunks] == [10, 10, 10, 10, 4]
    assert sum(len(c.token_ids) for c in text_chunks(exact, text, 10, 23)) == 23
    assert sum(len(c.token_ids) for c in text_chunks(exact, text, 10, 21)) == 20
    with pytest.raises(BadConfig, match="--text"):
        text_chunks(exact, "a", 10, 1000)


def test_a_bos_begins_every_chunk_and_predicts(
    monkeypatch: pytest.MonkeyPatch, exact: LoadedModel
) -> None:
    tokenizer = exact.built.tokenizer
    monkeypatch.setattr(tokenizer, "_prefix", [BOS])
    chunks = text_chunks(exact, "a" * 25, 10, 1000)
    assert [chunk.token_ids[0] for chunk in chunks] == [BOS, BOS, BOS]
    assert sum(chunk.num_predicted for chunk in chunks) == 25


def test_a_task_chunk_predicts_the_solution(exact: LoadedModel) -> None:
    template = template_of(exact)
    assert template is not None
    items = sample()
    chunks = task_chunks(exact, template, items, 100_000)
    assert len(chunks) == len(items)
    decode = exact.built.tokenizer.decode
    read = decode(chunks[0].token_ids[: chunks[0].first], skip_special_tokens=False)
    predicted = decode(chunks[0].token_ids[chunks[0].first :], skip_special_tokens=False)
    assert read == items[0].prompt
    assert predicted == f"<think>\n{items[0].thinking}\n</think>\n\n42</s>"
    few = task_chunks(exact, template, items, 4 * len(chunks[0].token_ids) + 40)
    assert len(few) == 4, "one of each split and task"


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("float32", Precision("float32", "float32")),
        ("w8g32", Precision("w8g32", "float16")),
        ("w8g32/float32", Precision("w8g32", "float32")),
        ("float32/float16", Precision("float32", "float16")),
    ],
)
def test_precisions_have_names(text: str, precision: Precision) -> None:
    assert parse_precision(text) == precision
    assert precision.name == text


@pytest.mark.parametrize("text", ["", "int4", "w8g32/", "w8g32/int8", "/float16", "W8G32"])
def test_other_precisions_are_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="w8g32"):
        parse_precision(text)
