"""What prompts say of tools and calls, and that the parsers read the calls back."""

from __future__ import annotations

import json
import random

import pytest

from tests.text.conversations import TOOLS
from tests.text.tool_formats.answers import FORMATS, events
from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.written import Call, arguments_object, instructions, written_calls

FUNCTION = json.dumps(TOOLS[0]["function"], ensure_ascii=False)


@pytest.mark.parametrize(
    ("tool_format", "listed"),
    [
        ("deepseek_v3", '- `weather`:\n```json\n{\n    "name": "weather"'),
        ("deepseek_v3_1", "### weather\nDescription: 天气 & <more>, it's 'here'\n\nParameters: {"),
        ("deepseek_v3_2", f"<functions>\n{FUNCTION}\n</functions>\n"),
        ("deepseek_v4", f"### Available Tool Schemas\n\n{FUNCTION}\n\n"),
        ("hermes", f"<tools>\n{json.dumps(TOOLS[0], ensure_ascii=False)}\n</tools>"),
    ],
)
def test_instructions_list_the_tools(tool_format: ToolFormat, listed: str) -> None:
    text = instructions(tool_format, TOOLS)
    assert listed in text
    assert "{listed}" not in text
    assert instructions(tool_format, [{"type": "function"}])  # odd, not fatal
    example = {
        "deepseek_v3": "function<｜tool▁sep｜>FUNCTION_NAME\n```json\n{",
        "hermes": "<tool_call>",
    }
    assert example.get(tool_format, "") in text


def test_the_published_examples_are_whole() -> None:
    """Braces of the texts are doubled where they are filled in; none of them shows."""
    assert '{"param1": "value1", "param2": "value2"}' in instructions("deepseek_v3", [])
    assert "{additional_tool_calls}<｜tool▁calls▁end｜>" in instructions("deepseek_v3_1", [])
    assert '{"name": <function-name>, "arguments": <args-json-object>}' in instructions(
        "hermes", []
    )


PIECES = [
    "a",
    "北",
    '"',
    "\\",
    "\n",
    "{",
    "}",
    "[",
    "<",
    "</tool_call>",
    "<｜tool▁call▁end｜>",
    "```",
]
PIECES += ["</｜DSML｜x>", " ", "\t", "\x01", "：", "👩"]


def value(chance: random.Random, depth: int = 0) -> object:
    match chance.randrange(7 if depth < 3 else 5):
        case 0:
            return None
        case 1:
            return chance.choice([True, False])
        case 2:
            return chance.choice([0, -7, 10**30, 1.5, 1e-9])
        case 3 | 4:
            return "".join(chance.choice(PIECES) for _ in range(chance.randrange(6)))
        case 5:
            return [value(chance, depth + 1) for _ in range(chance.randrange(3))]
        case _:
            return {f"k{i}": value(chance, depth + 1) for i in range(chance.randrange(3))}


@pytest.mark.parametrize("tool_format", FORMATS)
def test_any_calls_are_read_back(tool_format: ToolFormat) -> None:
    chance = random.Random(f"29 {tool_format}")
    for _ in range(200):
        calls = []
        for i in range(chance.randint(1, 3)):
            arguments = {f"p-{j}": value(chance) for j in range(chance.randrange(4))}
            calls.append(Call(f"f.{i}", json.dumps(arguments, ensure_ascii=chance.random() < 0.5)))
        content = chance.choice(["", "Now:", "a\nb"])
        glue = "\n" if tool_format == "hermes" and content else ""
        text = f"{content}{glue}{written_calls(tool_format, calls)}"
        found = events(tool_format, [text])
        assert found == events(tool_format, text)
        read = [(e[0], json.loads(e[1])) for e in found if isinstance(e, tuple)]
        assert read == [(call.name, json.loads(call.arguments)) for call in calls], text
        assert [e for e in found if isinstance(e, str)] == [content] * bool(content)


@pytest.mark.parametrize("text", ["", "x", "[1]", '"x"', "[" * 100_000])
def test_what_is_no_object_is_kept_as_one_argument(text: str) -> None:
    assert arguments_object(text) == {"arguments": text}
    assert arguments_object('{"a": 1}') == {"a": 1}
