"""What `tribody tune` found for a machine and a model: its record, its file, how it is applied.

A folder holds one JSON file for each pair of machine and model.  Both are hashed into the file's
name and stand inside it: what belongs to another machine, model or version of tribody is not found,
and a file that was put there by hand or damaged is ignored with a warning, because settings only
decide how fast answers come.

What the user states wins over what was tuned, and that over the defaults.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tribody.core.config import DEFAULT_STEP_TOKENS, MAX_DRAFTS, EngineConfig
from tribody.core.version import VERSION
from tribody.engine.machine import cpu_name, physical_cores
from tribody.ops.table import Ops, Setting, Tunable, check_settings

logger = logging.getLogger(__name__)

FILE_VERSION = 1
UNREADABLE = (OSError, ValueError, RecursionError, msgspec.MsgspecError)  # damaged or foreign


class Machine(msgspec.Struct, frozen=True):
    """What measured times belong to."""

    cpu: str
    cores: int  # that the process may use
    isa_levels: tuple[str, ...]
    tribody_version: str


class Gain(msgspec.Struct, frozen=True):
    """Share of the time that is saved, with its interval; negative: it got slower."""

    share: float
    low: float
    high: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One tunable: what it was, what it became, and why."""

    name: str
    meaning: str
    default: Setting
    chosen: Setting
    why: str
    gain: Gain | None = None  # of `chosen`, else of the best other value; None: not measured
    tried: dict[str, float] = {}  # each other value's share of time saved in the first rounds


class PhaseTime(msgspec.Struct, frozen=True, kw_only=True):
    """One phase under the defaults and as tuned, in turns: medians, and the paired gain."""

    unit: str  # what the seconds are of
    default_seconds: float
    tuned_seconds: float
    gain: Gain


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """A search and its result, as the file holds it."""

    file_version: int = FILE_VERSION
    machine: Machine
    model: str
    model_key: str
    goal: str
    created: str  # ISO 8601, UTC
    search_seconds: float
    disturbed: float  # share of the timed seconds in which other work had the core
    settings: dict[str, Setting]  # those that differ from the defaults
    phases: dict[str, PhaseTime]
    outcomes: list[Outcome]


def this_machine(ops: Ops) -> Machine:
    levels = [t.values for t in ops.tunables() if t.name == "isa"]
    names = tuple(str(value) for value in levels[0]) if levels else ()
    return Machine(cpu_name(), physical_cores(), names, VERSION)


def model_key(fingerprint: str, config: EngineConfig) -> str:
    """A checkpoint as it runs: the same weights in another format have times of their own."""
    return f"{fingerprint}/{config.weight_format}/{config.kv_format}"


def engine_tunables(cores: int) -> tuple[Tunable, ...]:
    """What may be tuned above the kernels: fields of `EngineConfig`.  Results never depend on it:
    rows are computed alike in every step, and drafts are checked."""
    quarters = {max(1, cores * share // 4) for share in (1, 2, 3, 4, 8)}  # 8: hyper-threads
    return (
        Tunable("num_threads", cores, tuple(sorted(quarters)), "threads that compute"),
        Tunable(
            "speculation",
            "auto",
            ("auto", "mtp", "ngram", "off"),
            "what may draft tokens (auto: the model's own drafter and look-ups)",
            ("decode",),
        ),
        Tunable(
            "max_drafts",
            MAX_DRAFTS,
            (1, 2, 3, 4, MAX_DRAFTS),
            "most tokens drafted for one sequence in one step",
            ("decode",),
        ),
        Tunable(
            "max_step_tokens",
            DEFAULT_STEP_TOKENS,
            (128, 256, DEFAULT_STEP_TOKENS, 1024, 2048),
            "tokens of prompts that one step computes",
            ("prefill",),
        ),
    )


def stated(config: EngineConfig) -> set[str]:
    """The engine's tunables that the user has decided himself."""
    free = EngineConfig(model_path="")
    names = [tunable.name for tunable in engine_tunables(1)]
    return {name for name in names if getattr(config, name) != getattr(free, name)}


def resolve(config: EngineConfig, settings: Mapping[str, Setting], cores: int) -> EngineConfig:
    """The configuration with nothing left to decide: what is stated, else tuned, else default."""
    tunables = engine_tunables(cores)
    values = {t.name: settings.get(t.name, t.default) for t in tunables}
    chosen = {name: values[name] for name in values if name not in stated(config)}
    resolved = msgspec.convert(msgspec.structs.asdict(config) | chosen, EngineConfig)
    if "max_step_tokens" in chosen and resolved.max_step_tokens < resolved.max_running:
        return msgspec.structs.replace(resolved, max_step_tokens=resolved.max_running)
    return resolved


def kernel_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Those that are the operators' own."""
    of_engine = {tunable.name for tunable in engine_tunables(1)}
    return {name: value for name, value in settings.items() if name not in of_engine}


def file_of(folder: Path, machine: Machine, key: str) -> Path:
    text = msgspec.json.encode(machine) + key.encode()
    return folder / f"{hashlib.sha256(text).hexdigest()[:24]}.json"


def save(folder: Path, tuning: Tuning) -> Path:
    """Replaces an older result at once.  Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = file_of(folder, tuning.machine, tuning.model_key)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(tuning), indent=1) + b"\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def find(folder: Path, ops: Ops, key: str) -> Tuning | None:
    """What was found for this machine and model; None, with a warning, for a file of no use."""
    machine = this_machine(ops)
    path = file_of(folder, machine, key)
    try:
        tuning = _read(path)
        if (tuning.machine, tuning.model_key) != (machine, key):
            raise ValueError("it is of another machine or model")
        check_settings((*engine_tunables(machine.cores), *ops.tunables()), tuning.settings)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        logger.warning("tuning_ignored=%s reason=%s", path, error)
        return None
    return tuning


def all_of(folder: Path, machine: Machine) -> Iterable[Tuning]:
    """Every readable result of this machine, by model."""
    found = []
    for path in folder.glob("*.json"):
        try:
            found.append(_read(path))
        except UNREADABLE as error:
            logger.warning("tuning_ignored=%s reason=%s", path, error)
    mine = [tuning for tuning in found if tuning.machine == machine]
    return sorted(mine, key=lambda tuning: (tuning.model, tuning.model_key))


def _read(path: Path) -> Tuning:
    """Raises: one of UNREADABLE."""
    tuning = msgspec.json.decode(path.read_bytes(), type=Tuning)
    if tuning.file_version != FILE_VERSION:
        raise ValueError(f"it is of version {tuning.file_version}")
    return tuning


def in_words(settings: Mapping[str, Setting]) -> str:
    """`spin_us=100, num_threads=1`; "defaults" when there are none."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
