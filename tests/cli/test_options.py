"""Options, sizes and the environment."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tribody.cli.engine_options import EngineOptions, engine_config, require_native
from tribody.cli.environment import TRIBODY_VARIABLES, read_environment
from tribody.cli.logs import start_logging
from tribody.cli.serve import ServeOptions, parse_aliases, resolve
from tribody.cli.serve_options import serve
from tribody.cli.sizes import parse_bytes, parse_count, show_bytes
from tribody.core.config import STEP_STRETCH
from tribody.core.errors import BadConfig, EngineFailed
from tribody.server.aliases import Alias

EMPTY = read_environment({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("2gb", 2 << 30),
        ("1.5 MiB", 3 << 19),
        ("512k", 512 << 10),
        ("1000", 1000),
        ("0.5T", 1 << 39),
    ],
)
def test_parse_bytes(text: str, expected: int) -> None:
    assert parse_bytes("--x", text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1G", "1e9", "2 GiBs", "NaN", "1" * 40, "٣G"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(BadConfig, match="--x"):
        parse_bytes("--x", text)


def test_parse_count() -> None:
    assert parse_count("--x", "8K") == 8192
    assert parse_count("--x", "25.6k") == 25_600
    assert parse_count("--x", "4096") == 4096
    with pytest.raises(BadConfig, match="--x"):
        parse_count("--x", "many")


def test_show_bytes() -> None:
    assert show_bytes(512) == "512 B"
    assert show_bytes(3 << 29) == "1.5 GiB"
    assert show_bytes(2 << 42) == "8.0 TiB"


def test_environment_defaults_and_values() -> None:
    assert EMPTY.api_key is None
    assert EMPTY.cache_dir.name == "models"
    environment = read_environment(
        {
            "TRIBODY_PORT": "9000",
            "TRIBODY_MODEL": "",
            "OPENAI_API_KEY": "theirs",
            "TRIBODY_API_KEY": "ours",
            "XDG_CACHE_HOME": "/var/cache",
            "NO_COLOR": "1",
            "PATH": "/bin",
        }
    )
    assert environment.port == 9000
    assert environment.model is None
    assert environment.api_key == "ours"
    assert environment.cache_dir == Path("/var/cache/tribody/models")
    assert environment.no_color


def test_misspelt_variables_are_refused() -> None:
    with pytest.raises(BadConfig, match="TRIBODY_PROT is not known"):
        read_environment({"TRIBODY_PROT": "1"})
    with pytest.raises(BadConfig, match="must be a whole number"):
        read_environment({"TRIBODY_THREADS": "two"})


def test_the_page_lists_every_variable() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environment.md").read_text("utf-8")
    assert not {name for name in TRIBODY_VARIABLES if f"`{name}`" not in page}


def test_flags_win_over_the_environment() -> None:
    environment = read_environment({"TRIBODY_THREADS": "3", "TRIBODY_KV_MEMORY": "1GiB"})
    config = engine_config(Path("/m"), EngineOptions(), environment)
    assert (config.num_threads, config.kv_budget_bytes) == (3, 1 << 30)
    options = EngineOptions(threads=5, kv_memory="2GiB", max_context="4K")
    config = engine_config(Path("/m"), options, environment)
    assert (config.num_threads, config.kv_budget_bytes) == (5, 2 << 30)
    assert config.max_context_tokens == 4096


@pytest.mark.parametrize(
    ("dtype", "weights", "kv"),
    [
        ("auto", "w8g32", "float16"),
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float16"),
        ("w8g32", "w8g32", "float16"),
    ],
)
def test_dtype(dtype: str, weights: str, kv: str) -> None:
    config = engine_config(Path("/m"), EngineOptions(dtype=dtype), EMPTY)
    assert (config.weight_format, config.kv_format) == (weights, kv)


def test_tuning_is_found_beside_the_models_unless_it_is_not_wanted() -> None:
    default = engine_config(Path("/m"), EngineOptions(), EMPTY)
    assert Path(default.tuning_dir) == EMPTY.cache_dir.parent / "tuning"
    assert engine_config(Path("/m"), EngineOptions(tuning=False), EMPTY).tuning_dir == ""
    assert (default.num_threads, default.max_step_tokens) == (0, 0)
    stated = engine_config(Path("/m"), EngineOptions(threads=3, max_step_tokens=64), EMPTY)
    assert (stated.num_threads, stated.max_step_tokens) == (3, 64)


def test_packed_weights_are_kept_beside_the_models_where_a_command_does() -> None:
    environment = read_environment({"XDG_CACHE_HOME": "/var/cache"})
    assert engine_config(Path("/m"), EngineOptions(), environment).packed_dir == ""
    kept = engine_config(Path("/m"), EngineOptions(keep_packed=True), environment)
    assert kept.packed_dir == "/var/cache/tribody/packed"


def test_defaults_that_the_command_line_repeats() -> None:
    """It cannot import them and answer `--help` quickly."""
    typed, meant = inspect.signature(serve).parameters, EngineOptions()
    names = ("step_stretch", "max_running", "max_step_tokens", "speculation", "dtype", "tuning")
    assert {n: typed[n].default for n in names} == {n: getattr(meant, n) for n in names}


def test_step_stretch() -> None:
    assert engine_config(Path("/m"), EngineOptions(), EMPTY).step_stretch == STEP_STRETCH
    assert engine_config(Path("/m"), EngineOptions(step_stretch=0), EMPTY).step_stretch == 0


def test_speculation() -> None:
    default = engine_config(Path("/m"), EngineOptions(), EMPTY)
    assert (default.speculation, default.max_drafts) == ("auto", 0)  # 0: as tuned
    chosen = engine_config(Path("/m"), EngineOptions(speculation="ngram", max_drafts=3), EMPTY)
    assert (chosen.speculation, chosen.max_drafts) == ("ngram", 3)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(dtype="int4"),
        EngineOptions(speculation="yes"),
        EngineOptions(kv_memory="1"),
        EngineOptions(kv_memory="lots"),
        EngineOptions(max_context="0"),
    ],
)
def test_bad_engine_options(options: EngineOptions) -> None:
    with pytest.raises(BadConfig, match="--"):
        engine_config(Path("/m"), options, EMPTY)


def serve_options(**fields: object) -> ServeOptions:
    values: dict[str, object] = {
        "models": [],
        "port": None,
        "host": None,
        "api_key_file": None,
        "aliases": [],
        "shutdown_seconds": 30.0,
        "api": "",
        "data_dir": None,
        "accounts": False,
        "admin_port": None,
        "database": None,
        "log_level": None,
        **fields,
    }
    return ServeOptions(**values)  # type: ignore[arg-type]


def test_serve_resolves_flags_environment_defaults() -> None:
    config, names = resolve(serve_options(), EMPTY)
    assert (config.host, config.port, names) == ("127.0.0.1", 8000, ["mini-r1"])
    environment = read_environment({"TRIBODY_PORT": "1", "TRIBODY_MODEL": "m"})
    config, names = resolve(serve_options(), environment)
    assert (config.port, names) == (1, ["m"])
    config, names = resolve(serve_options(port=0, models=["a", "b"]), environment)
    assert (config.port, names) == (0, ["a", "b"])
    with pytest.raises(BadConfig, match="named twice"):
        resolve(serve_options(models=["a", "a"]), EMPTY)


def test_aliases() -> None:
    texts = ["a=b", "c=hf:x/y", "d=b,thinking=on", "e=/m,x/y,thinking=off"]
    assert parse_aliases(texts) == {
        "a": Alias("b"),
        "c": Alias("hf:x/y"),
        "d": Alias("b", thinking=True),
        "e": Alias("/m,x/y", thinking=False),
    }
    for bad in (
        ["a"],
        ["=b"],
        ["a="],
        ["a=b", "a=c"],
        ["a=,thinking=on"],
        ["a=b,thinking="],
        ["a=b,thinking=yes"],
    ):
        with pytest.raises(BadConfig, match="--alias"):
            parse_aliases(bad)


def test_a_bundled_model_alone_answers_to_deepseeks_names() -> None:
    names = ["reasoner", "chat", "flash", "v4-flash", "v4-pro"]
    expected = {f"deepseek-{name}": Alias("mini-r1") for name in names}
    for models in ([], ["mini-r1"]):
        config, _ = resolve(serve_options(models=models), EMPTY)
        assert config.aliases == expected
    given = ["deepseek-chat=mini-r1,thinking=on", "x=mini-r1"]
    config, _ = resolve(serve_options(aliases=given), EMPTY)
    assert config.aliases == expected | {
        "deepseek-chat": Alias("mini-r1", thinking=True),
        "x": Alias("mini-r1"),
    }
    for models in (["smollm2"], ["mini-r1", "smollm2"]):
        config, _ = resolve(serve_options(models=models), EMPTY)
        assert config.aliases == {}


def test_bad_log_level() -> None:
    with pytest.raises(BadConfig, match="--log-level 'loud'"):
        start_logging("loud")


def test_missing_kernels_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineFailed, match="make install"):
        require_native()
