"""What was tuned: its file, who wins over it, and that engines use it and answer as before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.engine.model_folder import write_model_folder
from tribody import _native
from tribody.core.config import DEFAULT_STEP_TOKENS, MAX_DRAFTS, EngineConfig
from tribody.core.errors import BadConfig
from tribody.engine.build import build
from tribody.engine.llm import LLM
from tribody.engine.tuned import (
    Tuning,
    all_of,
    engine_tunables,
    file_of,
    find,
    in_words,
    kernel_settings,
    model_key,
    resolve,
    save,
    this_machine,
)
from tribody.ops import native, reference
from tribody.ops.table import Setting

KV_BYTES = 1 << 20
SETTINGS: dict[str, Setting] = {"spin_us": 100, "max_step_tokens": 128, "num_threads": 1}


@pytest.fixture(autouse=True)
def defaults_afterwards() -> Iterator[None]:
    before = _native.num_threads()
    yield
    native.OPS.tune({})
    _native.set_num_threads(before)


def tuning(key: str = "weights/w8g32/float16", **settings: Setting) -> Tuning:
    return Tuning(
        machine=this_machine(native.OPS),
        model="tiny",
        model_key=key,
        goal="both",
        created="2026-01-01T00:00:00+00:00",
        search_seconds=1.0,
        disturbed=0.0,
        settings=settings or dict(SETTINGS),
        phases={},
        outcomes=[],
    )


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert find(folder, native.OPS, "weights/w8g32/float16") is None
    path = save(folder, tuning())
    assert find(folder, native.OPS, "weights/w8g32/float16") == tuning()
    assert find(folder, native.OPS, "weights/w4m32/float16") is None
    assert find(folder, reference.OPS, "weights/w8g32/float16") is None
    save(folder, tuning(spin_us=0))
    assert [*folder.iterdir()] == [path]
    assert [t.settings for t in all_of(folder, this_machine(native.OPS))] == [{"spin_us": 0}]


def damaged(path: Path, found: Tuning) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def foreign(path: Path, found: Tuning) -> None:
    machine = msgspec.structs.replace(found.machine, cpu="another one")
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, machine=machine)))


def of_another_version(path: Path, found: Tuning) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, file_version=99)))


def with_an_unknown_name(path: Path, found: Tuning) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, settings={"speed": 11})))


def with_an_unknown_value(path: Path, found: Tuning) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, settings={"spin_us": 7})))


def nested(path: Path, found: Tuning) -> None:
    path.write_bytes(b"[" * 100_000)


@pytest.mark.parametrize(
    "spoil",
    [damaged, foreign, of_another_version, with_an_unknown_name, with_an_unknown_value, nested],
)
def test_a_file_of_no_use_is_ignored_with_a_warning(
    spoil, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = tuning()
    path = save(tmp_path, found)
    spoil(path, found)
    with caplog.at_level(logging.WARNING):
        assert find(tmp_path, native.OPS, found.model_key) is None
    assert "tuning_ignored" in caplog.text
    assert path.name in caplog.text


def test_stated_wins_over_tuned_and_tuned_over_default() -> None:
    free = EngineConfig(model_path="x")
    tuned: dict[str, Setting] = {
        "num_threads": 1,
        "max_step_tokens": 256,
        "speculation": "off",
        "max_drafts": 2,
        "spin_us": 100,
    }
    resolved = resolve(free, tuned, 4)
    assert (resolved.num_threads, resolved.max_step_tokens) == (1, 256)
    assert (resolved.speculation, resolved.max_drafts) == ("off", 2)
    assert kernel_settings(tuned) == {"spin_us": 100}
    plain = resolve(free, {}, 4)
    assert (plain.num_threads, plain.max_step_tokens) == (4, DEFAULT_STEP_TOKENS)
    assert (plain.speculation, plain.max_drafts) == ("auto", MAX_DRAFTS)
    stated = EngineConfig(
        model_path="x", num_threads=3, max_step_tokens=700, speculation="ngram", max_drafts=5
    )
    assert resolve(stated, tuned, 4) == stated


def test_resolving_twice_is_resolving_once() -> None:
    tuned: dict[str, Setting] = {"num_threads": 2, "speculation": "mtp", "max_step_tokens": 128}
    for settings in ({}, tuned):
        for running in (1, 64, 1000):
            once = resolve(EngineConfig(model_path="x", max_running=running), settings, 2)
            assert resolve(once, settings, 2) == once
            assert once.max_step_tokens >= running  # every sequence can decode


def test_defaults_are_among_the_values() -> None:
    for cores in (1, 2, 3, 96):
        for tunable in engine_tunables(cores):
            assert tunable.default in tunable.values
            assert len(set(tunable.values)) == len(tunable.values)


def test_engines_use_what_was_tuned_and_answer_as_before(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", "v3-q-lora")
    config = EngineConfig(model_path=str(folder), kv_budget_bytes=KV_BYTES)
    tunings = tmp_path / "tunings"
    tuned_config = msgspec.structs.replace(config, tuning_dir=str(tunings))
    before = build(tuned_config)
    assert before.info.tuning is None
    assert before.model_key.endswith("/w8g32/float16")
    save(tunings, tuning(before.model_key))
    after = build(tuned_config)
    assert after.info.tuning == "spin_us=100, max_step_tokens=128, num_threads=1"
    assert (after.info.num_threads, _native.tunable("spin_us")) == (1, 100)
    assert build(config).info.tuning is None
    ignoring = LLM(folder, kv_budget_bytes=KV_BYTES, tuning_dir=str(tmp_path / "none"))
    assert _native.tunable("spin_us") == 50
    ids = list(range(5, 70))
    expected = ignoring.generate([ids], max_tokens=20, temperature=0.0)[0]
    using = LLM(folder, kv_budget_bytes=KV_BYTES, tuning_dir=str(tunings))
    assert using.info.tuning is not None
    found = using.generate([ids], max_tokens=20, temperature=0.0)[0]
    assert found.choices[0].token_ids == expected.choices[0].token_ids
    assert using.logits(ids).tobytes() == ignoring.logits(ids).tobytes()


def test_a_tuned_budget_gives_way_to_more_sequences_and_a_stated_one_is_refused(
    tmp_path: Path,
) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    config = EngineConfig(model_path=str(folder), kv_budget_bytes=KV_BYTES, max_running=200)
    key = build(config).model_key
    save(tmp_path, tuning(key))
    config = msgspec.structs.replace(config, tuning_dir=str(tmp_path))
    assert build(config).info.tuning is not None
    with pytest.raises(BadConfig, match="max_step_tokens"):
        build(msgspec.structs.replace(config, max_step_tokens=100))


def test_the_key_is_of_weights_and_formats() -> None:
    config = EngineConfig(model_path="x")
    other = EngineConfig(model_path="y", weight_format="w4m32")
    assert model_key("a", config) != model_key("a", other)
    assert model_key("a", config) != model_key("b", config)


def test_settings_in_words() -> None:
    assert in_words({}) == "defaults"
    assert in_words({"isa": "avx2", "spin_us": 0}) == "isa=avx2, spin_us=0"


def test_files_of_other_keys_have_other_names(tmp_path: Path) -> None:
    machine = this_machine(native.OPS)
    assert file_of(tmp_path, machine, "a") != file_of(tmp_path, machine, "b")
    other = msgspec.structs.replace(machine, cores=machine.cores + 1)
    assert file_of(tmp_path, machine, "a") != file_of(tmp_path, other, "a")
