"""One tiny model folder, and models loaded from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.model_folder import write_model_folder
from tribody.core.config import EngineConfig
from tribody.quality.logits import REFERENCE, LoadedModel, parse_precision

THREADS = 1


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("quality") / "tiny", "v3-q-lora")


@pytest.fixture(scope="session")
def tiny_config(tiny_folder: Path) -> EngineConfig:
    return EngineConfig(model_path=str(tiny_folder), kv_budget_bytes=1 << 22, num_threads=THREADS)


@pytest.fixture(scope="session")
def exact(tiny_config: EngineConfig) -> LoadedModel:
    return LoadedModel(tiny_config, REFERENCE)


@pytest.fixture(scope="session")
def coarse(tiny_config: EngineConfig) -> LoadedModel:
    return LoadedModel(tiny_config, parse_precision("w8g32"))


class Stages:
    """A watcher that remembers; `left` is what a stage still owes of its total."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left: list[int] = []

    def begin(self, stage: str, total: int) -> None:
        self.names.append(stage)
        self.left.append(total)

    def advance(self, count: int) -> None:
        if self.left:
            self.left[-1] -= count


@pytest.fixture
def stages() -> Stages:
    return Stages()
