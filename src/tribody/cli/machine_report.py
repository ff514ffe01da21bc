"""What this machine is, and which known models it can run how fast."""

from __future__ import annotations

import importlib
import os
from importlib import resources
from pathlib import Path

import msgspec

from tribody.cli.engine_options import require_native
from tribody.engine.machine import available_bytes, cpu_name, physical_cores
from tribody.engine.tuned import all_of, this_machine
from tribody.ops.table import Setting
from tribody.precision.formats import FORMATS

MEASURE_SECONDS = 1.0
CONTEXT_TOKENS = 4096
BYTES_PER_WEIGHT = FORMATS["w8g32"].bits_per_weight / 8
KV_BYTES_PER_VALUE = 2  # float16


class MachineReport(msgspec.Struct, frozen=True):
    """Facts; the bandwidth is measured."""

    cpu: str
    isa: str  # the kernels that would run
    isa_levels: list[str]
    physical_cores: int
    total_bytes: int
    available_bytes: int
    bandwidth_bytes_per_s: float


class TunedModel(msgspec.Struct, frozen=True):
    """What `tribody tune` found for a model on this machine."""

    name: str
    goal: str
    created: str
    settings: dict[str, Setting]
    time_saved: dict[str, float]  # by phase, as a share


class KnownModel(msgspec.Struct, frozen=True):
    """One row of known_models.json; its note says how the numbers are meant."""

    name: str
    get: str
    parameters: int
    active: int
    kv_values: int
    source: str


class KnownModels(msgspec.Struct, frozen=True):
    note: str
    models: list[KnownModel]


class ModelOutlook(msgspec.Struct, frozen=True):
    """What to expect of one model on one machine."""

    name: str
    get: str
    needed_bytes: int
    fits: bool
    fits_when_empty: bool  # if nothing else used this machine's memory
    tokens_per_second: float  # an upper bound: bandwidth / bytes read per token


def look_at_machine() -> MachineReport:
    """Takes a second: the bandwidth is measured.

    Raises: EngineFailed when the compiled kernels are not installed.
    """
    require_native()
    native = importlib.import_module("tribody._native")
    native.set_num_threads(physical_cores())
    return MachineReport(
        cpu=cpu_name(),
        isa=native.current_isa(),
        isa_levels=native.isa_levels(),
        physical_cores=physical_cores(),
        total_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        available_bytes=available_bytes(),
        bandwidth_bytes_per_s=native.memory_bandwidth(MEASURE_SECONDS),
    )


def tuned_models(folder: Path) -> list[TunedModel]:
    """Those whose results are of this machine as it is now, and of this version."""
    ops = importlib.import_module("tribody.ops.native").OPS
    return [
        TunedModel(
            name=tuning.model,
            goal=tuning.goal,
            created=tuning.created,
            settings=tuning.settings,
            time_saved={name: phase.gain.share for name, phase in tuning.phases.items()},
        )
        for tuning in all_of(folder, this_machine(ops))
    ]


def known_models() -> KnownModels:
    text = resources.files("tribody.cli").joinpath("known_models.json").read_bytes()
    return msgspec.json.decode(text, type=KnownModels)


def outlooks(machine: MachineReport) -> list[ModelOutlook]:
    """Every known model, smallest first."""
    return [outlook(model, machine) for model in known_models().models]


def outlook(model: KnownModel, machine: MachineReport) -> ModelOutlook:
    """Weights and one context of KV against memory; weights per token against bandwidth."""
    kv_bytes = model.kv_values * KV_BYTES_PER_VALUE * CONTEXT_TOKENS
    needed = int(model.parameters * BYTES_PER_WEIGHT) + kv_bytes
    return ModelOutlook(
        name=model.name,
        get=model.get,
        needed_bytes=needed,
        fits=needed <= machine.available_bytes,
        fits_when_empty=needed <= machine.total_bytes,
        tokens_per_second=machine.bandwidth_bytes_per_s / (model.active * BYTES_PER_WEIGHT),
    )
