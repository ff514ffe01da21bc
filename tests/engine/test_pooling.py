"""Embeddings through the scheduler and the executor: equal to the model's hidden states, and the
same bits whatever else happens."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.tiny import tiny_checkpoint, tiny_tokens
from tribody.core.config import SchedulerConfig
from tribody.core.request import Chunk, Event, Request, SamplingParams
from tribody.engine.engine import Engine
from tribody.engine.model_executor import ModelExecutor
from tribody.engine.pooling import add_states
from tribody.memory.kv_store import KVStore
from tribody.models.load import load_model
from tribody.ops import native, reference
from tribody.ops.table import Ops
from tribody.scheduling.scheduler import Scheduler

FAMILIES = ["llama", "v3-q-lora"]
PROMPT = tiny_tokens(150, seed=3)


def engine_of(
    name: str, step_tokens: int = 512, num_pages: int = 24, ops: Ops = native.OPS
) -> tuple[Engine, ModelExecutor, Scheduler]:
    model = load_model(tiny_checkpoint(name), ops, "float32")
    config = SchedulerConfig(
        num_pages=num_pages,
        max_context_tokens=400,
        max_step_tokens=step_tokens,
        max_running=4,
        step_stretch=0.0,
    )
    scheduler = Scheduler(config, frozenset(), b"weights")
    kv = KVStore(model.kv_layout, num_pages, "float32")
    executor = ModelExecutor(model, ops, kv, step_tokens)
    return Engine(scheduler, executor, None), executor, scheduler


def to_embed(rid: str = "e", prompt: list[int] = PROMPT) -> Request:
    sampling = SamplingParams(max_tokens=0)
    return Request(id=rid, prompt_token_ids=prompt, sampling=sampling, pooling="mean")


def to_answer(rid: str, prompt: list[int], max_tokens: int = 40) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return Request(id=rid, prompt_token_ids=prompt, sampling=sampling)


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.has_work():
        events += engine.step()
    engine.check()
    return events


def embedding_of(events: list[Event], rid: str = "e") -> bytes:
    (last,) = [event for event in events if event.request_id == rid]
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert (last.usage.cached_tokens, last.usage.completion_tokens) == (0, 0)
    assert last.token_ids == []
    assert last.embedding is not None
    return last.embedding


def alone(name: str) -> bytes:
    engine, _, _ = engine_of(name)
    engine.submit(to_embed())
    return embedding_of(run(engine))


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_mean_of_the_states_that_the_logits_are_made_of(name: str) -> None:
    """logits = states @ lm_head.T, and the head of a tiny model has more rows than columns."""
    engine, executor, _ = engine_of(name, ops=reference.OPS)
    engine.submit(to_embed())
    found = np.frombuffer(embedding_of(run(engine)), "<f4")
    parts = [rows.copy() for _, rows in executor.logit_chunks(PROMPT, 0, "float32")]
    logits = np.concatenate(parts).astype(np.float64)
    head = tiny_checkpoint(name).read("lm_head.weight").astype(np.float64)
    states = np.linalg.lstsq(head, logits.T, rcond=None)[0].T
    mean = states.mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert abs(float(np.square(found).sum()) - 1) < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("step_tokens", [4, 7, 64, 100])
def test_chunks_change_no_bit(name: str, step_tokens: int) -> None:
    engine, _, _ = engine_of(name, step_tokens)
    engine.submit(to_embed())
    assert embedding_of(run(engine)) == alone(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_and_cached_pages_change_no_bit(name: str) -> None:
    """The same prompt was answered before, so that its pages are in the tree; now it is embedded
    and answered at once, beside another."""
    engine, _, scheduler = engine_of(name, step_tokens=50)
    engine.submit(to_answer("before", PROMPT))
    run(engine)
    engine.submit(to_answer("other", tiny_tokens(90, seed=8)))
    engine.step()
    engine.submit(to_embed())
    engine.submit(to_answer("again", PROMPT))
    engine.submit(to_embed("twin"))
    events = run(engine)
    assert embedding_of(events) == embedding_of(events, "twin") == alone(name)
    (hit,) = [e.cached_tokens for e in events if e.request_id == "again" and e.cached_tokens]
    assert hit == 128
    assert scheduler.stats().cached_tokens == 128


def test_it_leaves_no_page_in_the_cache() -> None:
    """An embedding's pages would only push out those that a conversation comes back to."""
    engine, _, scheduler = engine_of("llama")
    engine.submit(to_embed())
    run(engine)
    assert scheduler.memory.pool.num_cached == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_preemption_changes_no_bit(name: str) -> None:
    """Five pages: the one that came later gives way while the first grows, and begins again."""
    engine, _, scheduler = engine_of(name, step_tokens=20, num_pages=5)
    engine.submit(to_answer("grows", tiny_tokens(60, seed=5), max_tokens=150))
    for _ in range(6):
        engine.step()
    prompt = tiny_tokens(255, seed=6)
    engine.submit(to_embed(prompt=prompt))
    events = run(engine)
    assert scheduler.stats().preemptions > 0
    quiet, _, _ = engine_of(name)
    quiet.submit(to_embed(prompt=prompt))
    assert embedding_of(events) == embedding_of(run(quiet))


def test_a_prompt_may_fill_the_context_and_no_more() -> None:
    engine, _, scheduler = engine_of("llama")
    full = tiny_tokens(scheduler.max_context, seed=1)
    engine.submit(to_embed(prompt=full))
    assert len(embedding_of(run(engine))) == 64 * 4
    with pytest.raises(Exception, match=r"the input has 401 tokens; this server's context is 400"):
        engine.submit(to_embed(prompt=[*full, 1]))


def test_states_that_are_no_numbers_fail_the_request_alone() -> None:
    states = np.ones((3, 4), np.float32)
    states[1, 2] = np.nan
    chunk = Chunk(1, [1, 2, 3], 0, [0], False, hidden_sum=b"")
    assert add_states(chunk, states) == b""
    assert add_states(chunk, np.zeros((3, 4), np.float32)) == b""
    engine, executor, _ = engine_of("llama")
    executor._model.vocabulary.norm[:] = np.nan  # type: ignore[attr-defined]
    engine.submit(to_embed())
    (event,) = run(engine)
    assert (event.finish_reason, event.embedding) == ("error", None)
    assert event.error == "the hidden states are not numbers"
