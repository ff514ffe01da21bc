"""Hostile schemas are refused or compiled, in a process of its own and within its limit."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.text.hostile_schemas import Schema, hostile
from tribody.core.errors import BadRequest
from tribody.text import grammar_process
from tribody.text.grammar import json_schema_answer
from tribody.text.grammar_process import GrammarCheck, byte_tokenizer, compile_grammar

VOCAB_SIZE = 300
PARAM = "response_format"


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarCheck]:
    checker = GrammarCheck()
    yield checker
    checker.close()


def check(checker: GrammarCheck, schema: Schema) -> None:
    checker.check("start: answer\n" + json_schema_answer(schema, PARAM), VOCAB_SIZE, PARAM)


SCHEMAS = dict(hostile())


def test_there_are_enough_of_them() -> None:
    assert len(SCHEMAS) >= 200


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_is_refused_or_can_be_followed(name: str, checker: GrammarCheck) -> None:
    """Whatever it is, a good one after it is none the worse."""
    refused: BadRequest | None = None
    try:
        check(checker, SCHEMAS[name])
    except BadRequest as bad:
        refused = bad
    if refused is None:
        walk(SCHEMAS[name])
    else:
        assert refused.param == PARAM
        assert str(refused).startswith(PARAM)
        assert "\n" not in str(refused)
        assert len(str(refused)) < 400
    check(checker, {"type": "object", "title": name})


def walk(schema: Schema) -> None:
    """Draw what is allowed, the first byte each time: it ends, in JSON or in a limit."""
    tokenizer = byte_tokenizer(VOCAB_SIZE)
    grammar = "start: answer\n" + json_schema_answer(schema, PARAM)
    matcher, problem = compile_grammar(tokenizer, grammar)
    assert problem == ""
    text = b""
    for _ in range(200):
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error():
            return
        assert mask, "something may always follow"
        token = (mask & -mask).bit_length() - 1
        if token == tokenizer.eos_token:
            json.loads(text)
            return
        text += bytes([token])
        if not matcher.consume_token(token):
            assert "max is" in matcher.get_error()
            return


def test_two_large_factors_end_the_process_and_only_that(checker: GrammarCheck) -> None:
    """llguidance takes 3 s over these two, in a loop that it does not count."""
    hostile: Schema = {"allOf": [{"type": "integer", "multipleOf": 991}, {"multipleOf": 983}]}
    for _ in range(2):  # the verdict is kept: the second time no process is spent on it
        with pytest.raises(BadRequest, match="more than 250 ms to compile"):
            check(checker, hostile)
    assert not checker._child.runs
    check(checker, {"type": "object"})
    assert checker._child.runs


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"not": {}}, 'Unimplemented keys: \\["not"\\]'),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3, "type": "string"}]}, "use anyOf"),
        ({"$ref": "#"}, "nothing satisfies it"),
        ({"format": "phone"}, "Unknown format: phone"),
    ],
)
def test_a_refusal_says_why(schema: Schema, reason: str, checker: GrammarCheck) -> None:
    with pytest.raises(BadRequest, match=f"^response_format cannot be followed: .*{reason}"):
        check(checker, schema)


def test_a_killed_process_is_replaced() -> None:
    subject = GrammarCheck()
    check(subject, {"type": "object"})
    child = subject._child._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(BadRequest):
        check(subject, {"type": "array"})
    check(subject, {"type": "string"})
    subject.close()


def test_verdicts_kept_are_bounded(monkeypatch: pytest.MonkeyPatch, checker: GrammarCheck) -> None:
    monkeypatch.setattr(grammar_process, "REMEMBERED", 3)
    for length in range(10):
        check(checker, {"type": "string", "maxLength": 50 + length})
    while len(checker._verdicts) > 3:
        check(checker, {"type": "string", "maxLength": 7})
    assert len(checker._verdicts) <= 3


def test_threads_get_their_own_answers(checker: GrammarCheck) -> None:
    wrong: list[str] = []

    def ask(index: int) -> None:
        for turn in range(10):
            schema: Schema = {"type": "string", "maxLength": 100 * index + turn}
            if index % 2:
                schema["not"] = {}
            try:
                check(checker, schema)
                if index % 2:
                    wrong.append("accepted")
            except BadRequest as bad:
                if not index % 2:
                    wrong.append(str(bad))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
