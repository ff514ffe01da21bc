"""Reading, choosing and scoring held-out items."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quality.items import item, line, sample, write_lines
from tribody.core.errors import BadConfig
from tribody.quality.held_out import Item, choose, is_right, read_items


def test_reads_what_was_written(tmp_path: Path) -> None:
    items = [*sample(), item(language="zh", prompt="17 加 25 等于多少?", tokens=512)]
    path = write_lines(tmp_path / "h.jsonl.gz", *map(line, items[:3]), "", *map(line, items[3:]))
    assert read_items(path) == items


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        (line(item()).replace("held_out", "test"), "test"),
        (line(item()).replace('"answer"', '"solution"'), "solution"),
        (line(item()).replace('"42"', "42"), "answer"),
        (line(item(task="call", answer="42")), "JSON object"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, words: str) -> None:
    path = write_lines(tmp_path / "h.jsonl.gz", line(item()), bad)
    with pytest.raises(BadConfig, match=words) as raised:
        read_items(path)
    assert f"{path} line 2" in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text(line(item()))
    cut = tmp_path / "cut.jsonl.gz"
    whole = write_lines(tmp_path / "h.jsonl.gz", *[line(item(prompt=str(i))) for i in range(99)])
    cut.write_bytes(whole.read_bytes()[:-20])
    for path in (plain, cut, tmp_path / "none", tmp_path):
        with pytest.raises(BadConfig, match="cannot be read"):
            read_items(path)
    with pytest.raises(BadConfig, match="--held-out"):
        read_items(write_lines(tmp_path / "empty.jsonl.gz"))


def test_a_choice_is_even_ordered_and_grows() -> None:
    items = sample()
    for count in range(len(items) + 2):
        chosen = choose(items, count)
        assert chosen == [given for given in items if given in chosen]
        assert len(chosen) == min(count, len(items))
        assert set(map(id, chosen)) <= set(map(id, choose(items, count + 1)))
    assert {(given.split, given.task) for given in choose(items, 4)} == {
        (given.split, given.task) for given in items
    }


@pytest.mark.parametrize(
    ("given", "content", "right"),
    [
        (item(), " 42\n", True),
        (item(), "42.", False),
        (item(), "", False),
        (item(), "042", False),
        (item(task="call", answer='{"a": 1, "b": {"c": [1, 2]}}'), '{"b":{"c":[1,2]},"a":1}', True),
        (item(task="call", answer='{"a": 1}'), '{"a": true}', False),
        (item(task="call", answer='{"a": 1}'), '{"a": 1.0}', False),
        (item(task="call", answer='{"a": [1, 2]}'), '{"a": [2, 1]}', False),
        (item(task="call", answer='{"a": 1}'), '{"a": 1} done', False),
        (item(task="call", answer='{"a": 1}'), "[" * 5000, False),
        (item(task="call", answer='{"a": 1}'), "\ufffd", False),
    ],
)
def test_scoring_can_fail(given: Item, content: str, right: bool) -> None:
    assert is_right(given, content) is right
