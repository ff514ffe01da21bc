"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tribody.loading import hub
from tribody.loading.download import default_cache_dir


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The SmolLM2 GGUF file in the model cache; `make test` fetches it for the `weights` tests."""
    cache_dir = default_cache_dir(os.environ)
    return hub.resolve("smollm2", cache_dir=cache_dir, progress=None)
