"""Starts from packed weights: the same model, bit for bit, without encoding it again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.engine.model_folder import write_model_folder
from tribody.core.config import EngineConfig
from tribody.core.errors import BadModel
from tribody.core.request import Event, Request, SamplingParams
from tribody.engine.build import BuiltEngine, build
from tribody.loading import bundled
from tribody.loading.packed_file import PackedFile, Progress
from tribody.loading.safetensors_checkpoint import SafetensorsCheckpoint
from tribody.models.weights import Weights


def config(model: Path, packed: Path | None, **more: object) -> EngineConfig:
    plain = EngineConfig(
        model_path=str(model),
        kv_budget_bytes=1 << 22,
        num_threads=1,
        packed_dir="" if packed is None else str(packed),
    )
    return msgspec.structs.replace(plain, **more)


def weights(built: BuiltEngine) -> Weights:
    return built.executor._model.weights


def answer(built: BuiltEngine) -> list[int]:
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    prompt = built.tokenizer.encode("17 + 25 =", add_special_tokens=True)
    built.engine.submit(Request(id="a", prompt_token_ids=prompt, sampling=params))
    events: list[Event] = []
    while built.engine.has_work():
        events += built.engine.step()
    return [token for event in events for token in event.token_ids]


def same(one: Weights, other: Weights) -> bool:
    assert one.matrices.keys() == other.matrices.keys()
    assert (one.derived, one.prescribed) == (other.derived, other.prescribed)
    return all(
        np.array_equal(matrix.buffer, other.matrices[name].buffer)
        for name, matrix in one.matrices.items()
    ) and all(np.array_equal(vector, other.vectors[name]) for name, vector in one.vectors.items())


@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_mini_r1_and_its_drafter_start_from_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speculation: str
) -> None:
    model = bundled.locate("mini-r1")
    plain = build(config(model, None, speculation=speculation))
    first = build(config(model, tmp_path, speculation=speculation))

    def read(*arguments: object) -> None:
        raise AssertionError("a tensor was read: the packed file was not used")

    monkeypatch.setattr(SafetensorsCheckpoint, "read", read)
    second = build(config(model, tmp_path, speculation=speculation))
    assert second.info.speculation == ("mtp+ngram" if speculation == "auto" else "off")
    assert same(weights(plain), weights(first))
    assert same(weights(plain), weights(second))
    assert answer(plain) == answer(first) == answer(second)
    assert plain.info.fingerprint == first.info.fingerprint == second.info.fingerprint
    assert plain.info.precision == second.info.precision


def test_what_a_start_has_written_is_read_by_the_next_ones_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model_folder(tmp_path / "model", "llama")
    checked: list[Path] = []
    verify = PackedFile.verify

    def counted(file: PackedFile, progress: Progress | None = None) -> None:
        checked.append(file.path)
        verify(file, progress)

    monkeypatch.setattr(PackedFile, "verify", counted)
    first = build(config(model, tmp_path / "packed"))
    (path,) = (tmp_path / "packed").glob("*.tribody")
    assert checked == []
    second = build(config(model, tmp_path / "packed"))
    assert checked == [path]
    assert same(weights(first), weights(second))


def test_formats_and_drafters_are_kept_apart(tmp_path: Path) -> None:
    model = bundled.locate("mini-r1")
    prints = {
        build(config(model, tmp_path, weight_format=fmt, speculation=how)).info.fingerprint
        for fmt, how in (("w8g32", "auto"), ("w8g32", "off"), ("float16", "off"))
    }
    assert len(prints) == 2  # a drafter changes no page
    assert len(list(tmp_path.glob("*.tribody"))) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "foreign"])
def test_a_bad_file_is_made_again(tmp_path: Path, damage: str) -> None:
    model = write_model_folder(tmp_path / "model", "llama")
    packed = tmp_path / "packed"
    good = answer(build(config(model, packed)))
    (path,) = packed.glob("*.tribody")
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[-1000] ^= 16
    elif damage == "cut":
        del raw[-64:]
    else:
        other = write_model_folder(tmp_path / "other", "llama", seed=2)
        build(config(other, tmp_path / "others"))
        (foreign,) = (tmp_path / "others").glob("*.tribody")
        raw[:] = foreign.read_bytes()
    whole = path.read_bytes()
    path.write_bytes(raw)
    assert answer(build(config(model, packed))) == good
    assert path.read_bytes() == whole


def test_a_changed_checkpoint_is_not_served_from_its_predecessor(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", "llama")
    before = build(config(model, tmp_path / "packed"))
    write_model_folder(tmp_path / "model", "llama", seed=2)
    after = build(config(model, tmp_path / "packed"))
    assert not same(weights(before), weights(after))
    assert before.info.fingerprint != after.info.fingerprint


def test_a_packed_file_and_its_source_have_two_fingerprints(tmp_path: Path) -> None:
    """Prefix pages of one must never be taken for the other's."""
    model = write_model_folder(tmp_path / "model", "llama")
    plain = build(config(model, tmp_path / "packed"))
    (path,) = (tmp_path / "packed").glob("*.tribody")
    named = build(config(path, None))
    assert named.info.fingerprint != plain.info.fingerprint
    ignored = build(config(path, None, weight_format="float32"))
    assert named.info.fingerprint == ignored.info.fingerprint


def test_a_damaged_file_that_a_user_names_is_refused(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", "llama")
    build(config(model, tmp_path / "packed"))
    (path,) = (tmp_path / "packed").glob("*.tribody")
    raw = bytearray(path.read_bytes())
    raw[-1000] ^= 16
    path.write_bytes(raw)
    with pytest.raises(BadModel, match="not those that were written"):
        build(config(path, None))
