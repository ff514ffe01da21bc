"""`Quantization` from a model to a file that the ordinary engine runs."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tribody.core.config import EngineConfig, WeightFormat
from tribody.core.errors import BadConfig
from tribody.engine.llm import LLM
from tribody.loading import bundled
from tribody.loading.packed_checkpoint import PackedCheckpoint
from tribody.ops import native
from tribody.quality.answers import template_of
from tribody.quality.chunks import Chunk, task_chunks
from tribody.quality.held_out import read_items
from tribody.quality.logits import REFERENCE, LoadedModel, Precision
from tribody.tuning import decode_speed, report
from tribody.tuning.choice import Goal
from tribody.tuning.corpus import Corpus
from tribody.tuning.manifest import Manifest
from tribody.tuning.quantize import Quantization

PATH = bundled.root() / "mini-r1"
CONFIG = EngineConfig(model_path=str(PATH), kv_budget_bytes=1 << 26, max_context_tokens=512)


class Silent:
    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    model = LoadedModel(CONFIG, REFERENCE)
    items = read_items(bundled.root() / "held_out.jsonl.gz")
    template = template_of(model)
    assert template is not None
    short = [item for item in items if not item.task.startswith("lookup")]

    def chunks(split: str, tokens: int) -> list[Chunk]:
        chosen = [item for item in short if item.split == split]
        return task_chunks(model, template, chosen, tokens)

    return Corpus(
        "tasks", "held-out items", "0" * 64, chunks("longer", 500), chunks("held_out", 900)
    )


@pytest.fixture(scope="module")
def quantization(corpus: Corpus) -> Quantization:
    formats: tuple[WeightFormat, ...] = ("w8g32", "w5m32", "w4m32")
    return Quantization(CONFIG, corpus, native.OPS, Silent(), formats)


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, quantization: Quantization
) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("quantize") / "small.tribody"
    return out, quantization.run(Goal(bits=6.0), out)


def test_the_bits_are_kept_and_used(small) -> None:
    _, manifest = small
    assert 5.7 < manifest.bits_per_weight <= 6.0
    assert {matrix.format for matrix in manifest.matrices.values()} > {"w8g32"}


def test_the_file_tells_its_manifest_and_takes_as_many_bytes_as_it_says(small) -> None:
    out, manifest = small
    stored = msgspec.convert(PackedCheckpoint(out).manifest, Manifest)
    assert stored == manifest
    sizes = sum(matrix.num_bytes for matrix in manifest.matrices.values())
    assert (
        sizes < manifest.weight_bytes < out.stat().st_size < 1.2 * manifest.weight_bytes + 200_000
    )


def test_the_engine_serves_the_file_as_it_is(small) -> None:
    out, _ = small
    llm = LLM(out, kv_budget_bytes=1 << 26, max_context_tokens=512)
    result = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], temperature=0)
    assert "</think>" in result.text


def test_the_engine_says_what_weights_are_kept_in_and_what_that_costs(small) -> None:
    out, manifest = small
    packed = LoadedModel(CONFIG, Precision("w8g32", "float16", out)).built.info
    assert packed.weight_format == "mixed"
    assert packed.precision is not None
    assert packed.precision.recovery == manifest.recovery
    assert packed.precision.verified_on == "tasks"
    assert packed.precision.bits_per_weight == pytest.approx(manifest.bits_per_weight, rel=0.05)
    assert sum(packed.precision.formats.values()) == pytest.approx(1)
    plain = LoadedModel(CONFIG, Precision("w8g32", "float16")).built.info
    assert plain.weight_format == "w8g32"
    assert plain.precision is not None
    assert plain.precision.recovery is None
    assert plain.precision.formats["w8g32"] > 0.98


def test_verification_is_what_the_loss_is(small) -> None:
    _, manifest = small
    assert manifest.recovery == pytest.approx(math.exp(-manifest.verification.kl_mean_nats))
    assert 0 < manifest.verification.kl_mean_nats < 0.5


def test_a_budget_is_met_on_the_calibration_text_with_fewer_bytes_than_all_of_the_best(
    tmp_path: Path, quantization: Quantization
) -> None:
    manifest = quantization.run(Goal(recovery=0.98), tmp_path / "a.tribody")
    assert manifest.bits_per_weight < 8.5
    assert manifest.recovery > 0.95  # verified on other text: about the budget, not exactly


def test_a_budget_that_no_format_keeps_is_refused(
    tmp_path: Path, quantization: Quantization
) -> None:
    with pytest.raises(BadConfig, match="do not keep so much"):
        quantization.run(Goal(recovery=1 - 1e-12), tmp_path / "a.tribody")
    with pytest.raises(BadConfig, match=r"takes [0-9.]+ or more"):
        quantization.run(Goal(bits=2), tmp_path / "a.tribody")
    assert not list(tmp_path.iterdir())


def shares(config, formats, work, advance) -> decode_speed.Rates:
    """As if eight bits took 0.6 of float16's time, five 0.4 and four 0.3."""
    return decode_speed.Rates({"w8g32": 0.6, "w5m32": 0.4, "w4m32": 0.3}, work)


def test_speed_is_met_with_as_little_loss_as_it_allows(
    tmp_path: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mixture turns out 10 % slower than its formats promise: it is chosen again."""
    tried: list[float] = []

    def timed(config, precision, advance) -> decode_speed.Comparison:
        chosen = {name: m.format for name, m in quantization.trial.matrices.items()}
        work = {name: quantization.trial.work(name) for name in chosen}
        tried.append(0.9 * shares(config, (), work, advance).speed(chosen))
        ratios = np.full(25, tried[-1])
        return decode_speed.Comparison(ratios, ratios / 2, 512)

    monkeypatch.setattr("tribody.tuning.quantize.measured_rates", shares)
    monkeypatch.setattr("tribody.tuning.quantize.compare_speed", timed)
    out = tmp_path / "a.tribody"
    manifest = quantization.run(Goal(speed=2.2), out)
    assert len(tried) == 2
    assert tried[0] < 2.2 <= tried[1] < 2.4
    assert manifest.speed is not None
    assert manifest.speed.decode_ratio == pytest.approx(tried[1])
    assert manifest.speed.predicted_decode_ratio == pytest.approx(tried[1])
    with pytest.raises(BadConfig, match=r"smallest formats decode about 3\.33 times"):
        quantization.run(Goal(speed=3.4), tmp_path / "b.tribody")
    quantization.fits.exchange(quantization.points[0].choices, lambda _: None)
    finest = quantization.trial.divergence(quantization.readings, -1)
    high = math.exp(-1.01 * finest)
    with pytest.raises(BadConfig, match=r"not both.*recovery of [0-9.]+%"):
        quantization.run(Goal(speed=3.3, recovery=high), tmp_path / "b.tribody")
    both = quantization.run(Goal(speed=1.8, recovery=0.9), tmp_path / "c.tribody")
    assert both.speed is not None
    assert both.speed.decode_ratio >= 1.8
    assert both.recovery > 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tribody", "c.tribody"]


def test_two_engines_are_timed_in_turns() -> None:
    done: list[int] = []
    found = decode_speed.compare_speed(CONFIG, Precision("w8g32", "float16"), done.append)
    assert sum(done) == decode_speed.ROUNDS + decode_speed.PREFILL_ROUNDS
    assert found.decode.shape == (decode_speed.ROUNDS,)
    assert (found.decode > 0).all()
    assert found.prefill_tokens == 511


def test_the_interval_of_a_median_holds_it_in_nineteen_of_twenty_draws() -> None:
    rng = np.random.default_rng(7)
    draws = rng.normal(size=(2000, 25))
    intervals = [decode_speed.median_interval(draw) for draw in draws]
    share = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.93 < share < 0.99


def test_the_report_is_one_page_with_a_picture(small) -> None:
    _, manifest = small
    page = report.html(manifest)
    assert "<svg" in page
    assert "http" not in page
    for name in manifest.matrices:
        assert name in page
