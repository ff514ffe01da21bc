"""The options that several commands share: how a model is found, loaded and run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tribody.cli.environment import Environment
from tribody.cli.sizes import parse_bytes, parse_count
from tribody.core.config import (
    STEP_STRETCH,
    EngineConfig,
    KVFormat,
    Speculation,
    WeightChoice,
    default_packed_dir,
    default_tuning_dir,
)
from tribody.core.errors import BadConfig, EngineFailed

DEFAULT_MODEL = "mini-r1"
MIN_KV_BYTES = 2**20


@dataclass(frozen=True)
class EngineOptions:
    """As typed by the user; `engine_config` checks and resolves them."""

    dtype: str = "auto"
    kv_memory: str | None = None
    threads: int | None = None
    max_context: str | None = None
    max_step_tokens: int | None = None
    step_stretch: float = STEP_STRETCH
    max_running: int = 64
    speculation: str = "auto"
    max_drafts: int | None = None
    tuning: bool = True  # use what `tribody tune` found
    keep_packed: bool = False  # commands that load a model once in many formats keep none


def engine_config(path: Path, options: EngineOptions, environment: Environment) -> EngineConfig:
    """Resolve options (flags, then environment, then defaults) for the model at `path`.

    Raises: BadConfig on a value that cannot be used.
    """
    weight_format, kv_format = _formats(options.dtype)
    kv_memory = options.kv_memory or environment.kv_memory
    kv_budget_bytes = 0 if kv_memory is None else parse_bytes("--kv-memory", kv_memory)
    if kv_memory is not None and kv_budget_bytes < MIN_KV_BYTES:
        raise BadConfig(f"--kv-memory {kv_memory}: at least 1MiB is needed")
    context = (
        0 if options.max_context is None else parse_count("--max-context", options.max_context)
    )
    if options.max_context is not None and context < 1:
        raise BadConfig(f"--max-context {options.max_context}: at least 1 is needed")
    return EngineConfig(
        model_path=str(path),
        weight_format=weight_format,
        kv_format=kv_format,
        kv_budget_bytes=kv_budget_bytes,
        num_threads=options.threads or environment.threads or 0,
        max_context_tokens=context,
        max_step_tokens=options.max_step_tokens or 0,
        step_stretch=options.step_stretch,
        max_running=options.max_running,
        speculation=_speculation(options.speculation),
        max_drafts=options.max_drafts or 0,
        tuning_dir=str(default_tuning_dir(environment.cache_dir)) if options.tuning else "",
        packed_dir=str(default_packed_dir(environment.cache_dir)) if options.keep_packed else "",
    )


def _speculation(name: str) -> Speculation:
    for known in get_args(Speculation):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args has no types
    known_names = ", ".join(get_args(Speculation))
    raise BadConfig(f"--speculation {name!r} is not known; choose one of {known_names}")


def _formats(dtype: str) -> tuple[WeightChoice, KVFormat]:
    """Weight format and KV format; `auto` is what `EngineConfig` defaults to."""
    if dtype == "auto":
        defaults = EngineConfig(model_path="")
        return defaults.weight_format, defaults.kv_format
    for known in get_args(WeightChoice):
        if dtype == known:
            return known, "float32" if known == "float32" else "float16"
    known_names = ", ".join(["auto", *get_args(WeightChoice)])
    raise BadConfig(f"--dtype {dtype!r} is not known; choose one of {known_names}")


def require_native() -> None:
    """Raises EngineFailed, with the remedy, when the compiled kernels are not installed."""
    if importlib.util.find_spec("tribody._native") is None:
        raise EngineFailed(
            "the compiled kernels (tribody._native) are not installed for this Python; "
            "run `make install` in the source tree, or `pip install .`"
        )
