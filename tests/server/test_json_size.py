"""Counting arrays and objects agrees with a parser, wherever a text is cut."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from tribody.core.errors import BadRequest
from tribody.server import json_size, limits
from tribody.server.json_size import check_containers

VALUES = st.recursive(
    st.integers() | st.text('[]{}"\\/aé\n', max_size=12),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[{"\\a'), inner),
    max_leaves=12,
)


def count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    return 0


@hypothesis.given(VALUES, st.integers(1, 9), st.booleans())
def test_the_limit_is_exact(value: object, slice_bytes: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    found = count(value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_size, "SLICE_BYTES", slice_bytes)
        patched.setattr(limits, "MAX_CONTAINERS", found)
        check_containers(text)
        if found:
            patched.setattr(limits, "MAX_CONTAINERS", found - 1)
            with pytest.raises(BadRequest, match=f"more than {found - 1} arrays and objects"):
                check_containers(text)


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 2**20, b'"' + b"[" * 2**20, b'"' * (2**20 + 1)])
def test_strings_without_an_end_take_no_longer(text: bytes) -> None:
    """A pattern that tried again would take hours here."""
    check_containers(b"[" * 2**17 + text)
