"""Answers with calls in every format, what they say, and ways to spoil them."""

from __future__ import annotations

import itertools
import random

from tribody.text.tool_calls import CallArguments, CallStart, ToolEvent
from tribody.text.tool_formats.formats import ToolFormat, tool_parser

FORMATS: tuple[ToolFormat, ...] = (
    "deepseek_v3",
    "deepseek_v3_1",
    "deepseek_v3_2",
    "deepseek_v4",
    "hermes",
)

Event = str | tuple[str, str]
"""Content, or a call's name and arguments."""

ARGUMENTS = r'{"city": "北京 \"}{[\\", "days": [1, {"a": null}]}'

V3 = (
    "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>\n"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>time-now\n```json\n{}\n```<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>"
)
V3_1 = (
    "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>time-now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DSML = (
    "Let me look.\n\n<｜DSML｜BLOCK>\n"
    '<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">北京 "}{[\\</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">[1, {"a": null}]</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n"
    '<｜DSML｜invoke name="time-now">\n</｜DSML｜invoke>\n'
    "</｜DSML｜BLOCK>"
)
HERMES = (
    "Let me look.\n<tool_call>\n"
    f'{{"name": "weather", "arguments": {ARGUMENTS}}}\n'
    "</tool_call>\n<tool_call>\n"
    '{"name": "time-now", "arguments": {}}\n</tool_call>'
)
TEXTS: dict[ToolFormat, str] = {
    "deepseek_v3": V3,
    "deepseek_v3_1": V3_1,
    "deepseek_v3_2": DSML.replace("BLOCK", "function_calls"),
    "deepseek_v4": DSML.replace("BLOCK", "tool_calls"),
    "hermes": HERMES,
}

MARKUP = (
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "\n```json\n", "\n```", "function"),
    *("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>", "<｜DSML｜tool_calls>\n"),
    *("</｜DSML｜tool_calls>", '<｜DSML｜invoke name="', '">\n', "</｜DSML｜invoke>\n"),
    *('<｜DSML｜parameter name="', '" string="true">', '" string="false">'),
    *("</｜DSML｜parameter>\n", "<tool_call>\n", "\n</tool_call>", '{"name": "'),
    *('", "arguments": ', '{"arguments": ', "{}", '{"', '": "', '"', "}", "\\", "\n\n"),
)


def events(tool_format: ToolFormat, pieces: list[str] | str, *, live: bool = True) -> list[Event]:
    """What the parser makes of an answer that comes in `pieces` (a text: in characters)."""
    parser = tool_parser(tool_format, live=live)
    raw: list[str | ToolEvent] = []
    for piece in pieces:
        raw += parser.push(piece)
    return told(raw + parser.finish())


def told(raw: list[str | ToolEvent]) -> list[Event]:
    """Events with neighbouring text and all arguments of a call joined."""
    joined: list[Event] = []
    number = -1
    for event in raw:
        match event, joined[-1:]:
            case CallStart(index, name), _:
                number += 1
                assert index == number
                joined.append((name, ""))
            case CallArguments(index, text), [(str(name), str(before))]:
                assert index == number
                joined[-1] = (name, before + text)
            case str(text), [str(before)]:
                joined[-1] = before + text
            case str(text), _:
                joined.append(text)
            case _:
                raise AssertionError("arguments outside of a call")
    assert "" not in joined
    return joined


def split(text: str, at: list[int]) -> list[str]:
    """`text` cut at the given places."""
    edges = [0, *sorted(at), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def spoilt(tool_format: ToolFormat, chance: random.Random) -> str:
    """A valid answer of the format, cut, doubled, nested, swapped or with foreign markup."""
    text = TEXTS[tool_format]
    if chance.random() < 0.3:
        text += " " + chance.choice(list(TEXTS.values()))
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        match chance.randrange(8):
            case 0:
                text = text[:a]
            case 1:
                text = text[:a] + text[b:]
            case 2:
                text = text[:b] + text[a:b] + text[b:]
            case 3:
                text = text[:a] + text + text[a:]
            case 4:
                text = text[b:] + text[a:b] + text[:a]
            case 5:
                text = text[:a] + chance.choice(MARKUP) + text[a:]
            case 6:
                old, new = chance.choice(MARKUP), chance.choice(MARKUP)
                text = text.replace(old, new, chance.randint(1, 3))
            case _:
                text = text[:a] + chance.choice(('"', "x" * 300, "{[" * 40, "\\")) + text[a:]
    return text
