"""Grammars of calls: they let through what the parsers read, and nothing that breaks a schema."""

from __future__ import annotations

import json

import pytest
from llguidance import LLTokenizer
from tokenizers import AddedToken

from tests.engine.model_folder import byte_tokenizer as byte_level
from tests.text.tool_formats.answers import FORMATS, events
from tribody.core.errors import BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine.guidance import ll_tokenizer
from tribody.text.grammar import grammar_of
from tribody.text.grammar_process import compile_grammar
from tribody.text.tokenizer import Tokenizer
from tribody.text.tool_formats.formats import MARKERS, ToolFormat
from tribody.text.tool_formats.grammar import CallableTool, tool_answer
from tribody.text.tool_formats.written import Call, written_calls

ALL_MARKERS = sorted({text for texts in MARKERS.values() for text in texts}, key=len, reverse=True)

WEATHER = CallableTool(
    "weather",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1},
                "place": {"$ref": "#/$defs/place"},
                "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"place": {"type": "array", "items": {"type": "number"}}},
        }
    ),
)
NOW = CallableTool("now", '{"type":"object","properties":{},"additionalProperties":false}')
ANY = CallableTool("any")
TOOLS = [WEATHER, NOW, ANY]


def tokenizer(kind: str) -> Tokenizer:
    """Markers as special tokens, as added tokens with text, or as nothing but text."""
    inner = byte_level()
    if kind != "text":
        inner.add_tokens([AddedToken(m, special=kind == "special") for m in ALL_MARKERS])
    return Tokenizer.from_source(TokenizerSource(tokenizer_json=inner.to_str().encode()))


@pytest.fixture(params=["special", "added", "text"], scope="module")
def model(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer(request.param)


def vocabulary_of(model: Tokenizer) -> LLTokenizer:
    """With an end token behind the others."""
    end = model.vocab_size
    return ll_tokenizer(model, end + 1, frozenset({end}))


def follows(answer: str, text: str, model: Tokenizer) -> bool:
    """Whether this text, markers in it as the model writes them, is a whole answer."""
    matcher, problem = compile_grammar(vocabulary_of(model), grammar_of(answer, "none", model))
    assert problem == ""
    tokens = model.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


GOOD = [
    Call("weather", '{"city": "北京 <b>\\"", "unit": "F", "days": 3}'),
    Call("weather", '{"city": "", "days": 1, "place": [1.5, 2], "code": "ABC"}'),
    Call("now", "{}"),
    Call("any", '{"x": [1, "y"], "z": "text"}'),
]
BAD = [
    Call("weather", '{"city": "Paris"}'),
    Call("weather", '{"city": "Paris", "days": 0}'),
    Call("weather", '{"city": "Paris", "days": "1"}'),
    Call("weather", '{"city": 1, "days": 1}'),
    Call("weather", '{"city": "Paris", "unit": "K", "days": 1}'),
    Call("weather", '{"city": "Paris", "days": 1, "code": "abc"}'),
    Call("weather", '{"city": "Paris", "days": 1, "place": ["x"]}'),
    Call("weather", '{"city": "Paris", "days": 1, "more": 1}'),
    Call("now", '{"x": 1}'),
    Call("other", "{}"),
]


def written(tool_format: ToolFormat, *calls: Call) -> str:
    """As the model writes it: V3.2's and V4's line breaks are the content's, code is JSON there."""
    text = written_calls(tool_format, calls).lstrip("\n")
    text = text.replace('">\n\n</｜DSML｜invoke>', '">\n</｜DSML｜invoke>')
    return text.replace('"code" string="true">ABC<', '"code" string="false">"ABC"<')


@pytest.mark.parametrize("tool_format", FORMATS)
def test_good_calls_follow_and_are_read_back(tool_format: ToolFormat, model: Tokenizer) -> None:
    must = tool_answer(tool_format, TOOLS, model, must_call=True)
    may = tool_answer(tool_format, TOOLS, model, must_call=False)
    between = {"hermes": "\n", "deepseek_v3_2": "\n\n", "deepseek_v4": "\n\n"}.get(tool_format, "")
    for calls in (*([call] for call in GOOD), GOOD):
        text = written(tool_format, *calls)
        wanted = [(call.name, json.loads(call.arguments)) for call in calls]
        read = [(e[0], json.loads(e[1])) for e in events(tool_format, [text])]
        assert read == wanted
        assert follows(must, text, model)
        assert not follows(must, "Well. " + text, model)
        assert follows(may, f"Well < </ {{.{between}{text}", model)
        assert follows(may, text, model)
        assert not follows(may, f"{text} and more", model)


@pytest.mark.parametrize("tool_format", FORMATS)
def test_bad_calls_do_not(tool_format: ToolFormat, model: Tokenizer) -> None:
    answers = [tool_answer(tool_format, TOOLS, model, must_call=must) for must in (True, False)]
    for call in BAD:
        text = written(tool_format, call)
        assert not any(follows(answer, text, model) for answer in answers), text


@pytest.mark.parametrize("tool_format", FORMATS)
def test_free_text_one_call_and_one_tool(tool_format: ToolFormat, model: Tokenizer) -> None:
    may = tool_answer(tool_format, TOOLS, model, must_call=False)
    must = tool_answer(tool_format, [NOW], model, must_call=True, parallel=False)
    for text in ("", "Hello.\n", "a < b </ {"):
        assert follows(may, text, model)
        assert not follows(must, text, model)
    assert follows(must, written(tool_format, GOOD[2]), model)
    assert not follows(must, written(tool_format, GOOD[2], GOOD[2]), model)
    assert not follows(must, written(tool_format, GOOD[0]), model)


def test_what_dsml_cannot_write_is_refused(model: Tokenizer) -> None:
    named = CallableTool("f", '{"type":"object","properties":{"a\\"b":{"type":"string"}}}')
    with pytest.raises(BadRequest, match="cannot be written"):
        tool_answer("deepseek_v4", [named], model, must_call=True)
    pointing = CallableTool(
        "f",
        '{"type":"object","properties":{"a":{"type":"string"},"b":{"$ref":"#/properties/a"}}}',
    )
    with pytest.raises(BadRequest, match="must point into"):
        tool_answer("deepseek_v4", [pointing], model, must_call=True)
    assert tool_answer("hermes", [named, pointing], model, must_call=True)
