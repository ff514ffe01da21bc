"""Packed files: what is written is what is mapped, and damage is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tribody.core.errors import BadModel
from tribody.loading.packed_file import PackedFile, write_packed
from tribody.precision.formats import ALIGNMENT
from tribody.precision.packed_item import VECTOR, PackedItem


def items() -> list[PackedItem]:
    rng = np.random.default_rng(5)
    sizes = {"a": 272, "b": 64, "c": 1, "norm": 40}
    return [
        PackedItem(
            key,
            VECTOR if key == "norm" else "w8g32",
            (size // 4,) if key == "norm" else (8, 32),
            rng.integers(0, 256, size, np.uint8),
        )
        for key, size in sizes.items()
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_packed(tmp_path / "model.packed", items(), {"made_by": "a test"})
    return tmp_path / "model.packed"


def test_what_was_written_is_mapped_at_aligned_places(path: Path) -> None:
    packed = PackedFile(path)
    assert list(packed) == ["a", "b", "c", "norm"]
    assert packed.metadata["made_by"] == "a test"
    for expected in items():
        found = packed.item(expected.key)
        assert found is not None
        assert (found.form, found.shape) == (expected.form, expected.shape)
        assert found.data.ctypes.data % ALIGNMENT == 0
        assert len(found.data) % ALIGNMENT == 0
        assert np.array_equal(found.data[: len(expected.data)], expected.data)
        assert not found.data[len(expected.data) :].any()
        assert not found.data.flags.writeable
    assert packed.item("d") is None


def test_other_programs_read_it_as_safetensors(path: Path) -> None:
    with safe_open(path, "numpy") as opened:
        assert np.array_equal(opened.get_tensor("b"), items()[1].data)


def test_a_view_outlives_the_file_object_and_the_name(path: Path) -> None:
    item = PackedFile(path).item("a")
    path.unlink()
    assert item is not None
    assert np.array_equal(item.data[:272], items()[0].data)


def test_writing_replaces_and_leaves_nothing_else(path: Path) -> None:
    write_packed(path, items()[:1], {})
    assert list(PackedFile(path)) == ["a"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()
    broken = PackedItem("x", "w8g32", (8, 32), "no array")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        write_packed(path, [*items(), broken], {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BadModel, match=r"model\.packed"):
            PackedFile(path)


def _rewritten(path: Path, change) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (length - len(text))
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def _items_of(value: object):
    def change(header: dict) -> None:
        header["__metadata__"]["items"] = value if isinstance(value, str) else json.dumps(value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["__metadata__"].pop("items"), "does not list"),
        (_items_of("{"), "not valid JSON"),
        (_items_of(["a"]), "does not list"),
        (_items_of({"a": ["w8g32", [8]]}), "does not list"),
        (_items_of(dict.fromkeys("abc", 1) | {"norm": 1}), "form and shape"),
        (_items_of({key: ["w8g32", [0]] for key in ("a", "b", "c", "norm")}), "form and shape"),
        (lambda header: header["c"].update(dtype="I8"), "multiple of 64"),
    ],
)
def test_a_damaged_header_is_refused(path: Path, change, message: str) -> None:
    _rewritten(path, change)
    with pytest.raises(BadModel, match=message):
        PackedFile(path)
