"""Runs a test once for every instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tribody import _native


@pytest.fixture(params=_native.isa_levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.current_isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)
