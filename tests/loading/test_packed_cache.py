"""The folder of packed weights: what is kept, what is refused, what makes room."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading import packed_cache
from tribody.loading.packed_cache import PackedSlot, key_of
from tribody.loading.packed_checkpoint import PackedCheckpoint
from tribody.precision.packed_item import PackedItem

SOURCE = SimpleNamespace(
    name="a model/of mine",
    config={"model_type": "llama"},
    generation_config={},
    fingerprint="f" * 64,
    tokenizer_source=TokenizerSource(tokenizer_json=b"{}", chat_template="{{ messages }}"),
)


def weights(seed: int = 1, size: int = 5000) -> list[PackedItem]:
    data = np.random.default_rng(seed).integers(0, 256, (2, size), np.uint8)
    return [PackedItem(f"m{i}", "w8g32", (size // 34, 32), data[i]) for i in range(2)]


def slot(folder: Path, **parts: object) -> PackedSlot:
    return PackedSlot(folder, SOURCE.name, key_of({"weights": SOURCE.fingerprint} | parts))


def keep(place: PackedSlot, items: list[PackedItem] | None = None) -> bool:
    return place.write(SOURCE, items or weights())


def test_what_was_kept_is_found_under_its_key_alone(tmp_path: Path) -> None:
    place = slot(tmp_path / "packed", format="w8g32")
    assert place.open() is None
    assert keep(place)
    found = place.open()
    assert found is not None
    assert found.config == SOURCE.config
    assert found.tokenizer_source == SOURCE.tokenizer_source
    for item in weights():
        assert np.array_equal(found.packed(item.key).data[: len(item.data)], item.data)
    assert slot(tmp_path / "packed", format="float16").open() is None
    assert [p.name for p in place.folder.iterdir() if not p.name.startswith(".")] == [
        place.path.name
    ]


def test_a_file_of_something_else_under_this_name_is_refused(tmp_path: Path) -> None:
    mine, other = slot(tmp_path, format="w8g32"), slot(tmp_path, format="float16")
    assert keep(other)
    shutil.copy(other.path, mine.path)
    assert mine.open() is None
    assert keep(mine)
    assert mine.open() is not None


def test_no_damage_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit anywhere in the file is refused, or it was not in what is read."""
    place = slot(tmp_path)
    assert keep(place)
    whole = place.path.read_bytes()
    draw = random.Random(3)
    header = int.from_bytes(whole[:8], "little") + 8
    places = [draw.randrange(header) for _ in range(150)]
    places += [draw.randrange(header, len(whole)) for _ in range(50)]
    refused = 0
    for at in places:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        place.path.write_bytes(damaged)
        found = place.open()
        refused += found is None
        if found is None:
            continue
        for item in weights():
            got = found.packed(item.key)
            assert np.array_equal(got.data[: len(item.data)], item.data)
        assert found.tokenizer_source == SOURCE.tokenizer_source
    assert refused > 150  # the rest fell on spaces, on a name for people, or changed a case
    assert "packed_refused" in caplog.text


@pytest.mark.parametrize("length", [0, 7, 100, 4000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    place = slot(tmp_path)
    assert keep(place)
    place.path.write_bytes(place.path.read_bytes()[:length])
    assert place.open() is None


def test_of_two_that_write_at_once_one_goes_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = slot(tmp_path)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not keep(place)
        assert "another process" in caplog.text
    assert keep(place)


def test_what_a_writer_left_behind_goes_and_other_files_stay(tmp_path: Path) -> None:
    place = slot(tmp_path)
    (tmp_path / f".{place.path.name}.4711").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert keep(place)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {place.path.name, "notes.txt", ".lock"}


def test_the_longest_unused_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "HEADER_BYTES", 4000)
    places = [slot(tmp_path, number=number) for number in range(3)]
    for age, place in zip((30, 10, 20), places, strict=True):
        assert keep(place)
        os.utime(place.path, (1e9 - age, 1e9 - age))
    used = sum(place.path.stat().st_size for place in places)
    disk = SimpleNamespace(free=used + 14_000)  # half of all is what is used and half a file more
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    new = slot(tmp_path, number=3)
    assert keep(new)
    assert [place.path.exists() for place in places] == [False, True, True]
    assert new.open() is not None


def test_an_opened_file_counts_as_used(tmp_path: Path) -> None:
    place = slot(tmp_path)
    assert keep(place)
    os.utime(place.path, (1, 1))
    assert place.open() is not None
    assert place.path.stat().st_mtime > 1e9


def test_where_there_is_no_room_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    place = slot(tmp_path)
    assert not keep(place)
    assert "no room" in caplog.text
    blocked = slot(tmp_path / "file" / "packed")
    (tmp_path / "file").write_text("in the way")
    assert not keep(blocked)
    assert blocked.open() is None


def test_two_precisions_have_two_fingerprints(tmp_path: Path) -> None:
    """It was the source's: a prefix cache or a client could not tell four bits from eight."""
    found = []
    for number, items in enumerate((weights(1), weights(2), weights(1))):
        place = slot(tmp_path, number=number)
        assert keep(place, items)
        found.append(PackedCheckpoint(place.path).fingerprint)
    assert found[0] == found[2]
    assert len({*found, SOURCE.fingerprint}) == 3


def test_a_file_without_checksums_cannot_be_verified(tmp_path: Path) -> None:
    place = slot(tmp_path)
    assert keep(place)
    raw = place.path.read_bytes()
    place.path.write_bytes(raw.replace(b'"crc32"', b'"crc31"'))
    packed = PackedCheckpoint(place.path)
    assert not packed.has_checksums
    with pytest.raises(BadModel, match="no checksums"):
        packed.verify()
    assert place.open() is None
