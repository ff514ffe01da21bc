"""Tool-call parsers: what they find, in any pieces, in anything."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest

from tests.text.tool_formats.answers import (
    ARGUMENTS,
    FORMATS,
    TEXTS,
    Event,
    events,
    split,
    spoilt,
    told,
)
from tribody.text.tool_calls import CallArguments, CallStart
from tribody.text.tool_formats.formats import ToolFormat, tool_parser

CALLS = [("weather", json.loads(ARGUMENTS)), ("time-now", {})]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("tool_format", FORMATS)
def test_content_and_parallel_calls(tool_format: ToolFormat, live: bool) -> None:
    content, *calls = events(tool_format, [TEXTS[tool_format]], live=live)
    assert content == "Let me look."
    assert [(call[0], json.loads(call[1])) for call in calls] == CALLS


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("tool_format", FORMATS)
def test_the_pieces_do_not_matter(tool_format: ToolFormat, live: bool) -> None:
    text = TEXTS[tool_format] + "\nand more"
    whole = events(tool_format, [text], live=live)
    assert whole[-1] == "\nand more"
    assert events(tool_format, text, live=live) == whole
    chance = random.Random(5)
    for _ in range(200):
        at = [chance.randrange(len(text) + 1) for _ in range(chance.randint(1, 12))]
        assert events(tool_format, split(text, at), live=live) == whole


BROKEN: list[tuple[ToolFormat, str]] = [
    ("deepseek_v3_1", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": oops}<｜tool▁call▁end｜>"),
    ("deepseek_v3_1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"Par"),
    ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": tru}\n```"),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": oops}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": [1, 2'),
    ("deepseek_v4", '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
     '<｜DSML｜parameter name="a" string="true">cut o'),
    ("deepseek_v4", '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
     '<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\n</｜DSML｜inv'),
]  # fmt: skip


@pytest.mark.parametrize(("tool_format", "text"), BROKEN)
def test_a_call_that_breaks_comes_back_as_text(tool_format: ToolFormat, text: str) -> None:
    """With all its markup; live, it would have been announced already."""
    assert events(tool_format, ["Well. " + text], live=False) == ["Well. " + text]
    assert events(tool_format, "Well. " + text, live=False) == ["Well. " + text]


@pytest.mark.parametrize("tool_format", FORMATS)
def test_a_whole_call_before_one_that_breaks_is_called(tool_format: ToolFormat) -> None:
    text = TEXTS[tool_format]
    second = text.rindex("time-now")
    whole = events(tool_format, [text[: second + 4]], live=False)
    assert whole[:2] == events(tool_format, [text])[:2]
    assert "time" in whole[2]


@pytest.mark.parametrize("tool_format", FORMATS)
def test_arguments_stream_as_they_come(tool_format: ToolFormat) -> None:
    """A call is announced at its first key's colon, and what follows is not held back."""
    parser = tool_parser(tool_format, live=True)
    text = TEXTS[tool_format]
    key = text.index('city"')
    begun = key + len('city":' if "DSML" not in text else 'city" string="true">')
    assert [e for e in parser.push(text[: begun - 1]) if not isinstance(e, str)] == []
    assert parser.push(text[begun - 1 : begun])[0] == CallStart(0, "weather")
    start = text.index("北")
    parser.push(text[begun:start])
    assert parser.push("北") == [CallArguments(0, "北")]


V3_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
V3_END = "\n```<｜tool▁call▁end｜>"
DSML_CALL = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
DSML_TEXT = '<｜DSML｜parameter name="a" string="true">'
DSML_JSON = '<｜DSML｜parameter name="a" string="false">'
DSML_END = "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"


@pytest.mark.parametrize(
    ("tool_format", "text", "expected"),
    [
        # Content.
        ("hermes", "a\n\n", ["a\n\n"]),
        ("hermes", "a <b> </tool_call> <tool_cal", ["a <b> </tool_call> <tool_cal"]),
        ("hermes", "", []),
        ("deepseek_v3", "a <｜tool▁calls▁end｜>", ["a <｜tool▁calls▁end｜>"]),
        # Line breaks that the format writes, and one more.
        (
            "hermes",
            'a\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
            ["a\n", ("f", "{}")],
        ),
        ("deepseek_v4", f"a\n\n\n{DSML_CALL}</｜DSML｜invoke>", ["a\n", ("f", "{}")]),
        ("deepseek_v3", f"a\n{V3_CALL}{{}}{V3_END}", ["a\n", ("f", "{}")]),
        # Begins like a call, and is none.
        *[
            (tool_format, text, [text])
            for tool_format, text in (
                ("hermes", "\n<tool_call> is a tag"),
                ("hermes", '\n<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>'),
                ("hermes", '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>'),
                ("hermes", '<tool_call>{"name": "f g", "arguments": {}}</tool_call>'),
                ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
                ("hermes", '<tool_call>{"nom": "f", "arguments": {}}</tool_call>'),
                ("hermes", '<tool_call>{"arguments": {"a": 1}, "nom": "f"}</tool_call>'),
                ("hermes", '<tool_call>{"name": "f", "arguments": {"a'),
                ("hermes", '<tool_call>{"name": "' + "f" * 257 + '", "arguments": {}}'),
                ("deepseek_v3", "x<｜tool▁calls▁begin｜>\nnothing<｜tool▁calls▁end｜>"),
                ("deepseek_v3", "<｜tool▁calls▁begin｜>" + V3_CALL + "[1]" + V3_END),
                ("deepseek_v3", "<｜tool▁call▁begin｜>function f{}<｜tool▁call▁end｜>"),
                ("deepseek_v3", V3_CALL + '{"a"'),
                ("deepseek_v3", V3_CALL + '{"a\nb": 1}' + V3_END),
                ("deepseek_v4", "\n\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>"),
                ("deepseek_v4", "\n\n<｜DSML｜function_calls>\n"),
                ("deepseek_v4", '<｜DSML｜tool_calls><｜DSML｜invoke nom="f">'),
                ("deepseek_v4", DSML_CALL + "text</｜DSML｜invoke>"),
                ("deepseek_v4", DSML_CALL + '<｜DSML｜parameter name="a">1' + DSML_END),
            )
        ],
        # A real call after a false one.
        (
            "hermes",
            'a <tool_call> or\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
            ["a <tool_call> or", ("f", "{}")],
        ),
        ("deepseek_v3", V3_CALL + "1" + V3_CALL + "{}", [V3_CALL + "1", ("f", "{}")]),
        # A call, then what is none.
        (
            "deepseek_v3_1",
            f"{V3_CALL}{{}}{V3_END}\n<｜tool▁call▁begin｜>!<｜tool▁calls▁end｜>",
            [("f", "{}"), "\n<｜tool▁call▁begin｜>!<｜tool▁calls▁end｜>"],
        ),
        # Breaks after it was announced: as written.
        (
            "deepseek_v3",
            f'{V3_CALL}{{"a": [1}}, b{V3_END}\n{V3_CALL}{{}}',
            [("f", '{"a": [1}, b'), ("f", "{}")],
        ),
        (
            "hermes",
            '<tool_call>\n{"name": "f", "arguments": {"a": "x\ny}}\n</tool_call> b',
            [("f", '{"a": "x\ny}}'), " b"],
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x', [("f", '{"a": "x')]),
        (
            "deepseek_v4",
            f"{DSML_CALL}{DSML_TEXT}x</｜DSML｜parameter>\n? </｜DSML｜invoke>",
            [("f", '{"a": "x"'), "\n? </｜DSML｜invoke>"],
        ),
        ("deepseek_v4", f"{DSML_CALL}{DSML_TEXT}x\n</", [("f", '{"a": "x\\n</')]),
        ("deepseek_v4", f"{DSML_CALL}{DSML_JSON}[1, ", [("f", '{"a": [1, ')]),
        # Values of DSML.
        ("deepseek_v4", f"{DSML_CALL}{DSML_TEXT}{DSML_END}", [("f", '{"a": ""}')]),
        (
            "deepseek_v4",
            f"{DSML_CALL}{DSML_TEXT}<b>\\\x01</｜DSML｜x>{DSML_END}",
            [("f", '{"a": "<b>\\\\\\u0001</｜DSML｜x>"}')],
        ),
        *[
            ("deepseek_v4", f"{DSML_CALL}{DSML_JSON}{given}{DSML_END}", [("f", f'{{"a": {got}}}')])
            for given, got in (
                (" 1e999 ", " 1e999 "),
                ("9" * 5000, "9" * 5000),
                ("[" * 100_000, '"' + "[" * 100_000 + '"'),
                ("NaN", '"NaN"'),
                ("Paris", '"Paris"'),
                ("", '""'),
                ('"x" y', '"\\"x\\" y"'),
            )
        ],
        # The other model's form, a missing or a cut end.
        ("deepseek_v3", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", [("f", "{}")]),
        ("deepseek_v3_1", f"{V3_CALL}{{}}<｜tool▁calls▁end｜>", [("f", "{}")]),
        ("deepseek_v3", V3_CALL + "{}\n``", [("f", "{}")]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}\n</tool_', [("f", "{}")]),
        (
            "hermes",
            '<tool_call>{"arguments": {"a": {"b": 1}}, "name": "f"}\n</tool_call>',
            [("f", '{"a": {"b": 1}}')],
        ),
        # Markup in a string of valid JSON is a string.
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call><tool_call>"}}</tool_call>',
            [("f", '{"a": "</tool_call><tool_call>"}')],
        ),
    ],
)
def test_goldens(tool_format: ToolFormat, text: str, expected: list[Event]) -> None:
    assert events(tool_format, [text]) == expected
    assert len(text) > 4000 or events(tool_format, text) == expected


_MARKUP_WORDS = re.compile(
    r"tool|calls?|begin|end|sep|json|function|DSML|(?:function|tool)_calls|invoke|parameter|name"
    r"|string|true|false|arguments|tool_call"
)


def words(text: str) -> Counter[str]:
    """What stands between markup; a backslash and what it may escape is left out."""
    plain = re.sub(r"\\+.?", " ", text).replace("▁", " ")
    found = re.findall(r"\w+", plain)
    return Counter(word for word in found if not _MARKUP_WORDS.fullmatch(word))


def _without_cut_end(text: str) -> str:
    """Without what the answer's end left of a closing marker."""
    for closing in ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "</tool_call>", DSML_END):
        for line in [*closing.splitlines(), "</｜DSML｜function_calls>"]:
            for length in range(len(line), 0, -1):
                if text.endswith(line[:length]):
                    return text[:-length]
    return text


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tool_format", FORMATS)
def test_spoilt_answers_lose_no_word_and_raise_nothing(
    tool_format: ToolFormat, count: int, live: bool
) -> None:
    """10,000 in all: cut, doubled, nested, swapped markers, giant names, odd quotes."""
    chance = random.Random(f"17 {tool_format}")
    with_calls = 0
    for number in range(count):
        text = spoilt(tool_format, chance)
        whole = events(tool_format, [text], live=live)
        at = [chance.randrange(len(text) + 1) for _ in range(3)]
        assert events(tool_format, split(text, at), live=live) == whole, text
        if number % 20 == 0:
            assert events(tool_format, text, live=live) == whole, text
        output = " ".join(event if isinstance(event, str) else " ".join(event) for event in whole)
        assert words(_without_cut_end(text)) <= words(output), text
        with_calls += any(isinstance(event, tuple) for event in whole)
    assert count / 5 < with_calls < count


TraceFunction = Callable[[FrameType, str, Any], Any]


def steps(tool_format: ToolFormat, pieces: Iterable[str], *, live: bool) -> int:
    """The lines that the parser runs; each looks at what it takes, or at a marker's length."""
    parser = tool_parser(tool_format, live=live)
    count = 0

    def trace(frame: FrameType, kind: str, _argument: object) -> TraceFunction | None:
        nonlocal count
        if "tool_formats" not in frame.f_code.co_filename:
            return None
        count += kind == "line"
        return trace

    sys.settrace(trace)
    try:
        for piece in pieces:
            parser.push(piece)
            assert len(parser._text) - parser._at < 64  # type: ignore[attr-defined]
        parser.finish()
    finally:
        sys.settrace(None)
    return count


FAMILIES = [
    "a" * 12,
    "<tool_call>",
    '<tool_call>{"',
    '<tool_call>{"name": "f", "arguments": {"a": "',
    '<tool_call>{"arguments": {"a": ',
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f",
    V3_CALL + '{"a": "',
    V3_CALL + '{"a": 1}' + V3_END,
    "<｜DSML｜tool_calls>",
    DSML_CALL,
    DSML_CALL + DSML_TEXT,
    DSML_CALL + DSML_JSON,
    "<｜DSML｜tool_calls>\n" + '<｜DSML｜invoke name="',
    "\n",
    "<",
    '{"',
    " ",
]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("tool_format", ["deepseek_v3", "deepseek_v4", "hermes"])
@pytest.mark.parametrize("unit", FAMILIES)
def test_work_grows_with_the_text(tool_format: ToolFormat, unit: str, live: bool) -> None:
    for start in ("", '<tool_call>{"arguments": {"a": "', DSML_CALL + DSML_JSON, V3_CALL + "{"):
        few, many = start + unit * 10, start + unit * 40
        for pieces in (lambda text: [text], list):
            one, four = (steps(tool_format, pieces(text), live=live) for text in (few, many))
            assert four < 4.4 * one + 200


def test_told_joins_only_neighbours() -> None:
    assert told(["a", CallStart(0, "f"), CallArguments(0, "{"), CallArguments(0, "}"), "b"]) == [
        "a",
        ("f", "{}"),
        "b",
    ]
