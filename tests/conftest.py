"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The SmolLM2 GGUF file in the model cache; `make test` fetches it for the `weights` tests."""
    from tribody.loading import hub

    return hub.resolve("smollm2", progress=None)
