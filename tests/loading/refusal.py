"""The promise about bad input: refused in words, within a second, within the file's size."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tribody.core.errors import BadModel

_ALLOWANCE_BYTES = 4 << 20
# What a refusal may allocate beyond the file's size: the 1 MiB read-ahead, the JSON parser's
# tables and the traceback.


def assert_refused(open_file: Callable[[Path], object], path: Path, message: str) -> None:
    """`open_file(path)` raises BadModel that matches `message` and names the file."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(BadModel, match=message) as caught:
            open_file(path)
        elapsed = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert re.search(re.escape(path.name), str(caught.value))
    assert len(str(caught.value)) < 1000 + len(str(path))
    assert elapsed < 1.0
    assert peak <= path.stat().st_size + _ALLOWANCE_BYTES
