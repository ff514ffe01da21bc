"""AMX's tiles are used only where the system lets the process use them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tribody import _native

WITH_A_SMALL_SIGNAL_STACK = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

memory = ctypes.create_string_buffer(8192)  # enough for AVX-512's state, not for the tiles'
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0

import numpy as np
from tribody import _native
from tribody.ops import native

weights = native.OPS.pack(np.ones((16, 32), np.float32), "w8g32")
out = np.empty((20, 16), np.float32)
native.OPS.linear(np.ones((20, 32), np.float32), weights, None, None, out)
print(_native.current_isa(), *_native.isa_levels(), bool(np.abs(out - 32).max() < 0.1))
"""


@pytest.mark.skipif("amx" not in _native.isa_levels(), reason="needs AMX")
def test_where_tiles_are_refused_the_level_below_is_chosen() -> None:
    """Linux refuses them to a process with a signal stack that could not hold their 8 KB."""
    answer = subprocess.run(
        [sys.executable, "-c", WITH_A_SMALL_SIGNAL_STACK],
        check=True,
        capture_output=True,
        text=True,
    )
    chosen, *levels, right = answer.stdout.split()
    assert levels == [level for level in _native.isa_levels() if level != "amx"]
    assert (chosen, right) == (levels[-1], "True")
