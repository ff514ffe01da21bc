"""What the grammars that are written accept, for vocabularies with and without special markers."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken

from tests.engine.model_folder import byte_tokenizer as byte_level
from tribody.core.errors import BadRequest
from tribody.core.request import Thinking
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine.guidance import ll_tokenizer
from tribody.text.grammar import (
    ANY_OBJECT,
    grammar_of,
    is_special,
    json_rule,
    json_schema_answer,
    marker,
    text_until,
)
from tribody.text.grammar_process import byte_tokenizer, compile_grammar
from tribody.text.tokenizer import Tokenizer

MARKERS = ("<think>", "</think>", "<call>", "</call>")


def tokenizer(kind: str) -> Tokenizer:
    """Markers as special tokens, as added tokens with text, or as nothing but text."""
    inner = byte_level()
    if kind != "text":
        inner.add_tokens([AddedToken(m, special=kind == "special") for m in MARKERS])
    return Tokenizer.from_source(TokenizerSource(tokenizer_json=inner.to_str().encode()))


@pytest.fixture(params=["special", "added", "text"])
def model(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer(request.param)


def follows(grammar: str, text: str, model: Tokenizer) -> bool:
    """Whether this text, markers in it as the model writes them, is a whole answer."""
    end = model.vocab_size  # a token behind the others
    vocabulary = ll_tokenizer(model, end + 1, frozenset({end}))
    matcher, problem = compile_grammar(vocabulary, grammar)
    assert problem == ""
    tokens = model.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


OBJECT_ANSWER = json_rule("answer", ANY_OBJECT)
ANSWER = '{"a": [1, {"b": "</think>é"}]}'


@pytest.mark.parametrize(
    ("thinking", "text", "expected"),
    [
        ("none", ANSWER, True),
        ("none", "\n" + ANSWER, True),
        ("none", "<think>x</think>" + ANSWER, False),
        ("none", "Sure: " + ANSWER, False),
        ("none", "[1]", False),
        ("none", "", False),
        ("open", ANSWER, False),
        ("open", "hm { < </ 你好\n</think>\n\n" + ANSWER, True),
        ("open", "</think>" + ANSWER, True),
        ("open", "hm</think>then " + ANSWER, False),
        ("may", ANSWER, True),
        ("may", "<think>hm\n</think>\n\n" + ANSWER, True),
        ("may", "\n<think></think>" + ANSWER, True),
        ("may", "hm</think>" + ANSWER, False),
        ("may", "<think>hm", False),
    ],
)
def test_thinking_is_free_and_the_answer_is_not(
    thinking: Thinking, text: str, expected: bool, model: Tokenizer
) -> None:
    special = is_special("</think>", model)
    answer = text.replace(ANSWER, ANSWER.replace("</think>", "")) if special else text
    assert follows(grammar_of(OBJECT_ANSWER, thinking, model), answer, model) is expected


def test_an_end_of_thinking_may_be_spelled_where_it_is_a_token() -> None:
    """Else a model that spells it, which ends its thinking for every reader, would go on free."""
    model = tokenizer("special")
    grammar = grammar_of(OBJECT_ANSWER, "open", model)
    matcher, _ = compile_grammar(byte_tokenizer(model.vocab_size), grammar)
    tokens = list(b"hm</think>{}")
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()
    assert matcher.try_consume_tokens([ord("x")]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1}', True),
        ('{ "a" : 1 }', True),
        ('{\n    "a": 1\n}', True),
        ('{\n\t"a": 1\n}', True),
        ('{  "a": 1}', False),
        ('{\n\n"a": 1}', False),
        ("{\n" + " " * 33 + '"a": 1}', False),
        ("\n\n\n{}", False),
        ("{} ", False),
    ],
)
def test_white_space_between_tokens_is_bounded(text: str, expected: bool) -> None:
    model = tokenizer("text")
    assert follows(grammar_of(OBJECT_ANSWER, "none", model), text, model) is expected


def test_a_schema_is_data_and_no_grammar() -> None:
    """Quotes, line ends and Lark's own words in a schema change nothing around it."""
    model = tokenizer("text")
    key = 'a"\n%json {} \nanswer: FREE // # \\ </think> <[5]>'
    schema = {"type": "object", "properties": {key: {"const": key}}, "required": [key]}
    closed: dict[str, object] = {**schema, "additionalProperties": False}
    grammar = grammar_of(json_schema_answer(closed, "schema"), "none", model)
    assert follows(grammar, json.dumps({key: key}), model)
    assert not follows(grammar, "anything", model)


def test_tool_calls_can_be_written_with_the_parts(model: Tokenizer) -> None:
    """Text up to a marker, then a schema's JSON, then another marker."""
    arguments = json_rule("arguments", '{"type":"object","required":["x"]}')
    answer = (
        f"answer: before arguments {marker('</call>', model)}\n"
        + text_until("before", "<call>", model)
        + arguments
    )
    grammar = grammar_of(answer, "open", model)
    assert follows(grammar, 'hm</think>ok <call>{"x": 1}</call>', model)
    assert not follows(grammar, 'hm</think>ok <call>{"y": 1}</call>', model)
    assert not follows(grammar, "hm</think>ok", model)


def test_a_schema_beyond_the_bounds_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"response_format\.json_schema.* 70\d+ bytes"):
        json_schema_answer({"const": "x" * 70_000, "a": 1}, "response_format.json_schema")
