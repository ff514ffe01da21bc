"""The scripted engine's name and what stands behind it."""

from __future__ import annotations

import pytest

from tribody.cli.engine_options import EngineOptions
from tribody.cli.environment import read_environment
from tribody.cli.script import config_for, script_of
from tribody.cli.serve import ServeOptions, resolve
from tribody.core.config import ScriptConfig
from tribody.core.errors import BadConfig

EMPTY = read_environment({})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("scripted", ScriptConfig()),
        ("scripted:rate=50", ScriptConfig(tokens_per_second=50)),
        ("scripted:faults,rate=0.5", ScriptConfig(tokens_per_second=0.5, faults=True)),
        ("mini-r1", None),
        ("scripted-model", None),
    ],
)
def test_names(name: str, wanted: ScriptConfig | None) -> None:
    assert script_of(name) == wanted


@pytest.mark.parametrize(
    "rest", ["", "rate", "rate=0", "rate=-1", "rate=nan", "rate=1e9", "faults=1", "faults,", "x"]
)
def test_names_that_mean_nothing(rest: str) -> None:
    with pytest.raises(BadConfig, match="scripted"):
        script_of(f"scripted:{rest}")


def test_nothing_is_fetched_and_limits_are_kept() -> None:
    options = EngineOptions(max_context="8K", max_running=4)
    config = config_for("scripted:faults", options, EMPTY)
    assert config.script == ScriptConfig(faults=True)
    assert (config.max_context_tokens, config.max_running) == (8192, 4)


@pytest.mark.parametrize("options", [EngineOptions(dtype="float32"), EngineOptions(threads=2)])
def test_options_of_weights_are_refused(options: EngineOptions) -> None:
    with pytest.raises(BadConfig, match="no weights"):
        config_for("scripted", options, EMPTY)


def test_a_script_alone_has_the_names_of_thinking() -> None:
    options = ServeOptions(
        ["scripted:rate=50"], None, None, None, [], 1.0, "", None, False, None, None, None
    )
    config, names = resolve(options, EMPTY)
    assert names == ["scripted:rate=50"]
    assert config.aliases["deepseek-reasoner"].target == "scripted:rate=50"
