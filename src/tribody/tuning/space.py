"""The search space of `tribody tune`: one table of all that may be tuned for a loaded model.

A backend declares its own part (`Ops.tunables`; for the C++ kernels native/tunables.h), the engine
declares its part (`engine.tuned.engine_tunables`); here they meet, in the order of the search, less
what the user has decided or the model lacks.
"""

from __future__ import annotations

from dataclasses import replace

from tribody.core.config import EngineConfig
from tribody.engine.build import BuiltEngine
from tribody.engine.machine import physical_cores
from tribody.engine.tuned import engine_tunables, stated
from tribody.ops.table import Tunable


def space(config: EngineConfig, built: BuiltEngine) -> list[Tunable]:
    """Threads first: how work is best cut depends on who shares it."""
    fixed = stated(config)
    free = [t for t in engine_tunables(physical_cores()) if t.name not in fixed]
    speculation = built.info.speculation
    if speculation == "off":
        free = [t for t in free if t.name != "max_drafts"]
    if "+" not in speculation:  # "auto" is the one source that there is
        free = [replace(t, values=("auto", "off")) if t.name == "speculation" else t for t in free]
    threads = [t for t in free if t.name == "num_threads"]
    others = [t for t in free if t.name != "num_threads"]
    return [*threads, *built.ops.tunables(), *others]
