"""`Quantization` from a model to a file that the ordinary engine runs."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
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
from tribody.tuning import report
from tribody.tuning.manifest import Manifest
from tribody.tuning.quantize import Corpus, Goal, Quantization

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


def quantize(out: Path, corpus: Corpus, **goal: float) -> Manifest:
    formats: tuple[WeightFormat, ...] = ("w8g32", "w5m32", "w4m32")
    return Quantization(CONFIG, Goal(**goal), corpus, native.OPS, Silent(), formats).run(out)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("quantize") / "small.tribody"
    return out, quantize(out, corpus, bits=6.0)


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
    tmp_path: Path, corpus: Corpus
) -> None:
    manifest = quantize(tmp_path / "a.tribody", corpus, recovery=0.98)
    assert manifest.bits_per_weight < 8.5
    assert manifest.recovery > 0.95  # verified on other text: about the budget, not exactly


def test_a_budget_that_no_format_keeps_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(BadConfig, match="do not keep so much"):
        quantize(tmp_path / "a.tribody", corpus, recovery=1 - 1e-12)
    with pytest.raises(BadConfig, match=r"takes [0-9.]+ or more"):
        quantize(tmp_path / "a.tribody", corpus, bits=2)
    assert not list(tmp_path.iterdir())


def test_the_report_is_one_page_with_a_picture(small) -> None:
    _, manifest = small
    page = report.html(manifest)
    assert "<svg" in page
    assert "http" not in page
    for name in manifest.matrices:
        assert name in page
