"""`tribody tune` from the command to a file that the next engine uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.engine.model_folder import write_model_folder
from tribody import _native
from tribody.cli import tune
from tribody.cli.engine_options import EngineOptions, engine_config
from tribody.cli.environment import read_environment
from tribody.core.errors import BadConfig
from tribody.engine.build import build
from tribody.engine.tuned import Gain, Tuning
from tribody.loading import bundled
from tribody.ops import native
from tribody.server.serve import tuning_text
from tribody.tuning import workloads
from tribody.tuning.space import space

ENGINE = EngineOptions(kv_memory="4MiB", tuning=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(workloads, "TARGET_SECONDS", 0.001)
    monkeypatch.setattr(tune, "space", lambda config, built: space(config, built)[:3])
    before = _native.num_threads()
    yield tmp_path / "cache" / "tribody"
    native.OPS.tune({})
    _native.set_num_threads(before)


def options(
    model: Path,
    *,
    goal: str = "both",
    seconds: float = 120.0,
    text: Path | None = None,
    as_json: bool = False,
) -> tune.TuneOptions:
    return tune.TuneOptions(str(model), goal, seconds, text, as_json)


def test_a_model_is_tuned_and_the_next_engine_says_so(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    tune.run(options(folder, as_json=True), ENGINE)
    printed = msgspec.json.decode(capsys.readouterr().out, type=Tuning)
    (file,) = (cache / "tuning").iterdir()
    assert msgspec.json.decode(file.read_bytes(), type=Tuning) == printed
    assert (printed.model, printed.goal) == ("tiny", "both")
    assert {"num_threads", "isa", "smallest_chunk_macs"} == {
        outcome.name for outcome in printed.outcomes
    }
    assert set(printed.phases) == {"decode", "prefill"}
    environment = read_environment({"XDG_CACHE_HOME": str(cache.parent)})
    used = build(engine_config(folder, EngineOptions(kv_memory="4MiB"), environment))
    assert used.info.tuning is not None
    assert "tuned (" in tuning_text(used.info.tuning)
    ignored = build(engine_config(folder, ENGINE, environment))
    assert tuning_text(ignored.info.tuning) == "not tuned"


def test_the_table_explains_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    text = tmp_path / "text.txt"
    text.write_text("what this model is to go on from, again and again " * 20)
    tune.run(options(folder, goal="latency", text=text), ENGINE)
    out = capsys.readouterr().out
    assert "for latency" in out
    for word in ("tunable", "chosen", "why", "num_threads", "a token of one stream", "kept in"):
        assert word in out


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="--for 'speed'"):
        tune.run(options(tmp_path, goal="speed"), ENGINE)
    folder = write_model_folder(tmp_path / "tiny", "llama")
    short = tmp_path / "short.txt"
    short.write_text("x")
    with pytest.raises(BadConfig, match="too short"):
        tune.run(options(folder, text=short), ENGINE)
    with pytest.raises(BadConfig, match="nothing could be tried"):
        tune.run(options(folder, seconds=1e-3), ENGINE)
    assert not (tmp_path / "cache" / "tribody" / "tuning").exists()


def test_the_bundled_reasoner_is_given_its_own_tasks() -> None:
    environment = read_environment({})
    config = engine_config(bundled.locate("mini-r1"), ENGINE, environment)
    built = build(config)
    prompts = tune.prompts(built, config, None)
    texts = [built.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
    assert len(prompts) == tune.NUM_TASKS
    assert not any("sea" in text for text in texts)


def test_gains_in_words() -> None:
    assert tune.show_gain(Gain(0.0412, 0.032, 0.05)) == "+4.1% (3.2 to 5.0)"
    assert tune.show_gain(None) == ""
