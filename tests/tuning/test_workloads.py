"""Workloads of a tiny model: lengths that fit, results that are compared, the space to search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

from tests.engine.model_folder import write_model_folder
from tribody import _native
from tribody.core.config import EngineConfig
from tribody.engine.build import BuiltEngine, build
from tribody.ops import native
from tribody.ops.table import Ops, Setting
from tribody.tuning.space import space
from tribody.tuning.workloads import STREAMS, Workloads

PROMPTS = [list(range(10, 40)), list(range(60, 110))]


@pytest.fixture(autouse=True)
def defaults_afterwards() -> Iterator[None]:
    before = _native.num_threads()
    yield
    native.OPS.tune({})
    _native.set_num_threads(before)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    folder = write_model_folder(tmp_path_factory.mktemp("tune") / "tiny", "v3-q-lora")
    return EngineConfig(model_path=str(folder), kv_budget_bytes=1 << 23)


@pytest.fixture(scope="module")
def built(config: EngineConfig) -> BuiltEngine:
    return build(config)


@pytest.fixture(scope="module")
def work(config: EngineConfig, built: BuiltEngine) -> Workloads:
    return Workloads(built, config, PROMPTS)


def test_every_phase_has_a_time_and_leaves_no_page(work: Workloads) -> None:
    for phase in ("decode", "prefill", "throughput"):
        for settings in ({}, {"num_threads": 1, "max_step_tokens": 128, "spin_us": 0}):
            assert work.seconds(settings, phase) > 0
    assert work.unit("prefill") == f"a prompt of {work.lengths.prefill} tokens"
    assert str(STREAMS) in work.unit("throughput")


def test_a_stream_ends_where_its_text_does(
    work: Workloads, config: EngineConfig, built: BuiltEngine
) -> None:
    """What a model says after its end is no work of a user's; but a text must have some length."""
    events = work._run([work._request(0, len(PROMPTS[0]), 40)])
    drawn = [token for event in events for token in event.token_ids]
    for place, token in enumerate(drawn):
        if token not in drawn[:place]:
            ended = replace(built, eos_token_ids=frozenset({token}))
            count = Workloads(ended, config, PROMPTS[:1])._decode(32)[1]
            assert count == (place if 8 <= place <= 32 else 32)


def test_settings_are_in_force_while_they_are_timed(work: Workloads) -> None:
    work.seconds({"num_threads": 1, "spin_us": 0}, "prefill")
    assert (_native.num_threads(), _native.tunable("spin_us")) == (1, 0)
    work.seconds({}, "prefill")
    assert _native.tunable("spin_us") == 50


def test_no_setting_of_the_space_changes_results(
    work: Workloads, config: EngineConfig, built: BuiltEngine
) -> None:
    """The extremes of all tunables, alone and together."""
    assert work.same_results({}, 0.0)
    first: dict[str, Setting] = {t.name: t.values[0] for t in space(config, built)}
    last: dict[str, Setting] = {t.name: t.values[-1] for t in space(config, built)}
    for settings in (first, last, *({name: last[name]} for name in last)):
        assert work.same_results(settings, 0.0), settings


class Perturbed:
    """Operators whose results move by `epsilon` where spinning is tuned."""

    def __init__(self, epsilon: float) -> None:
        self._epsilon, self._on = epsilon, False

    def __getattr__(self, name: str) -> object:
        return getattr(native.OPS, name)

    def tune(self, settings: Mapping[str, Setting]) -> None:
        self._on = "spin_us" in settings

    def top_logprobs(self, logits, k: int):
        ids, logprobs, sums = native.OPS.top_logprobs(logits, k)
        return ids, logprobs, sums + np.float32(self._epsilon * self._on)


def test_changed_results_are_noticed(config: EngineConfig, built: BuiltEngine) -> None:
    """Log-probabilities that move by a thousandth: not the same bits, but within a hundredth."""
    ops = cast(Ops, Perturbed(1e-3))
    executor = built.executor
    before = executor._ops
    executor._ops = ops
    try:
        work = Workloads(replace(built, ops=ops), config, PROMPTS)
        assert work.same_results({"rows_per_chunk": 32}, 0.0)
        assert not work.same_results({"spin_us": 0}, 0.0)
        assert work.same_results({"spin_us": 0}, 1e-2)
        assert not work.same_results({"spin_us": 0}, 1e-4)
    finally:
        executor._ops = before


def test_the_space_leaves_out_what_is_stated_or_lacking(
    config: EngineConfig, built: BuiltEngine
) -> None:
    names = [t.name for t in space(config, built)]
    assert names[0] == "num_threads"
    assert {"isa", "spin_us", "max_step_tokens", "speculation", "max_drafts"} < set(names)
    (speculation,) = [t for t in space(config, built) if t.name == "speculation"]
    assert speculation.values == ("auto", "off")  # this model has no drafter
    stated = msgspec.structs.replace(config, num_threads=1, max_step_tokens=64)
    assert not {"num_threads", "max_step_tokens"} & {t.name for t in space(stated, built)}
    quiet = msgspec.structs.replace(built.info, speculation="off")
    off = msgspec.structs.replace(config, speculation="off")
    left = {t.name for t in space(off, replace(built, info=quiet))}
    assert not {"speculation", "max_drafts"} & left


def test_a_model_of_short_context_is_run_within_it(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    config = EngineConfig(
        model_path=str(folder), kv_budget_bytes=1 << 22, max_context_tokens=100, num_threads=1
    )
    work = Workloads(build(config), config, [list(range(10, 200))])
    assert work.lengths.prefill < 100
    for phase in ("decode", "prefill", "throughput"):
        assert work.seconds({}, phase) > 0
    assert work.same_results({"speculation": "off"}, 0.0)
