"""JSON mode and JSON schemas (contract 2 and 6; json_schema as OpenAI has it)."""

from __future__ import annotations

import json
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import Failed, Skipped, expect, expect_equal

JSON_OBJECT = {"type": "json_object"}
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "role": {"enum": ["admin", "user"]},
    },
    "required": ["name", "age", "role"],
    "additionalProperties": False,
}
ROWS: dict[str, object] = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"ok": {"type": "boolean"}},
                "required": ["ok"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["rows"],
    "additionalProperties": False,
}


def schema_format(
    schema: object, name: object = "answer", strict: bool = True
) -> dict[str, object]:
    """OpenAI's response_format of a schema."""
    described = {"name": name, "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": described}


def parsed(answer: Value) -> object:
    """The content as JSON; skips where max_tokens cut it."""
    text = message(answer).at("content").text()
    if answer.at("choices", 0, "finish_reason").raw == "length":
        raise Skipped("the model's answer did not end within max_tokens")
    try:
        found: object = json.loads(text)
    except ValueError:
        raise Failed(f"expected JSON as content; got {text[:200]!r}") from None
    return found


def _ask(t: Target) -> str:
    return t.prompts.say('{"name": "Ada", "age": 36, "role": "admin"}') + " Answer in json."


def _accepted(response_format: object, t: Target) -> None:
    t.chat(_ask(t), response_format=response_format, max_tokens=8).ok()


def object_mode(t: Target) -> None:
    answer = t.chat(_ask(t), response_format=JSON_OBJECT, max_tokens=128).ok()
    found = parsed(answer)
    expect(isinstance(found, dict), "an object", found)


def object_mode_any(t: Target) -> None:
    """The mode holds even where the model would rather have talked."""
    ask = t.prompts.say("Sure! Here it is.") + " (json)"
    answer = t.chat(ask, response_format=JSON_OBJECT, max_tokens=256).ok()
    content = message(answer).maybe("content").raw
    if content in ("", None):  # the contract admits it
        return
    expect(isinstance(parsed(answer), dict), "an object", content)


def object_stream(t: Target) -> None:
    stream = t.stream(_ask(t), response_format=JSON_OBJECT, max_tokens=128, temperature=0)
    plain = t.chat(_ask(t), response_format=JSON_OBJECT, max_tokens=128, temperature=0).ok()
    expect_equal(stream.content, message(plain).at("content").raw, "the streamed text")


def word_json(t: Target) -> None:
    answer = t.chat("Hello.", response_format=JSON_OBJECT)
    expect(answer.status in (400, 422), "400 where no message says json", answer.status)
    expect("json" in answer.message.lower(), "a sentence that says so", answer.message)


def thinking_is_free(t: Target) -> None:
    ask = t.prompts.think("This is {not json.", '{"a": 1}') + " json"
    found = message(t.chat(ask, response_format=JSON_OBJECT, **t.thinking()).ok())
    expect_equal(found.at("reasoning_content").text().strip(), "This is {not json.", "reasoning")
    expect_equal(found.at("content").text().replace(" ", ""), '{"a":1}', "content")


def cut_by_length(t: Target) -> None:
    answer = t.chat(_ask(t), response_format=JSON_OBJECT, max_tokens=3).ok()
    t.obeyed(answer.at("choices", 0, "finish_reason").raw == "length", "length", answer.raw)


def _schema_holds(t: Target, found: object) -> None:
    expect(isinstance(found, dict) and set(found) == {"name", "age", "role"},
           "name, age and role, nothing else", found)  # fmt: skip
    value = Value(found, "the content")
    expect(len(value.at("name").text()) <= 12, "a name of at most 12 characters", found)
    expect(0 <= value.at("age").integer() <= 150, "an age within 0 and 150", found)
    value.at("role").one_of("admin", "user")


def _person(t: Target, prompt: str, **fields: object) -> None:
    answer = t.chat(prompt, response_format=schema_format(PERSON), max_tokens=192, **fields)
    _schema_holds(t, parsed(t.needs_200(answer, "json_schema").json()))


def schema_willing(t: Target) -> None:
    _person(t, _ask(t))


def schema_unwilling(t: Target) -> None:
    """What the model wants to say does not fit; the mask makes it fit."""
    _person(t, t.prompts.say("I would rather not."), temperature=0)


def schema_nested(t: Target) -> None:
    answer = t.chat(
        t.prompts.say('{"rows": [{"ok": true}]}'),
        response_format=schema_format(ROWS),
        max_tokens=128,
    )
    found = Value(parsed(t.needs_200(answer, "json_schema").json()), "the content")
    rows = found.at("rows").items()
    expect(1 <= len(rows) <= 2, "one or two rows", found.raw)
    for row in rows:
        row.at("ok").boolean()


def schema_stream(t: Target) -> None:
    fields = {"response_format": schema_format(PERSON), "max_tokens": 192, "temperature": 0}
    plain = t.needs_200(t.chat(_ask(t), **fields), "json_schema").json()
    expect_equal(t.stream(_ask(t), **fields).content, message(plain).at("content").raw, "the text")


def schema_thinking(t: Target) -> None:
    ask = t.prompts.think("{ free", '{"name": "Ada", "age": 36, "role": "user"}')
    fields = t.thinking(response_format=schema_format(PERSON))
    answer = t.needs_200(t.chat(ask, **fields), "json_schema").json()
    _schema_holds(t, parsed(answer))
    expect_equal(message(answer).at("reasoning_content").text().strip(), "{ free", "reasoning")


def _refused(response_format: object, t: Target) -> None:
    answer = t.chat("Answer in json.", response_format=response_format)
    expect(answer.status in (400, 422), "400 or 422", answer.status)


DEEP: dict[str, object] = {"type": "string"}
for _ in range(600):
    DEEP = {"type": "array", "items": DEEP}
HOSTILE: dict[str, object] = {
    "an enum of 100,000": {"enum": [f"value {i}" for i in range(100_000)]},
    "a depth of 600": DEEP,
    "a pattern that explodes": {"type": "string", "pattern": "(a{1000}){1000}"},
    "a remote $ref": {"$ref": "http://127.0.0.1:9/schema.json"},
    "10^8 items": {"type": "array", "items": {"type": "string"}, "minItems": 10**8},
}


def hostile_schemas(t: Target) -> None:
    """Refused or compiled, and soon; never a 5xx."""
    for what, schema in HOSTILE.items():
        answer = t.chat("json", response_format=schema_format(schema), max_tokens=4)
        expect(answer.status in (200, 400, 413, 422), f"200, 400 or 422 for {what}", answer.status)


SECTION = Section(
    "json",
    "JSON",
    (
        Check("json.accepted", "response_format json_object is accepted",
              partial(_accepted, JSON_OBJECT)),
        Check("json.schema-accepted", "response_format json_schema is accepted",
              partial(_accepted, schema_format(PERSON))),
        Check("json.object", "json_object gives an object", object_mode, ("json",)),
        Check("json.object-unwilling", "json_object holds a model that would rather talk",
              object_mode_any, ("json", "scripted")),
        Check("json.object-stream", "streamed: the same text", object_stream, ("json",)),
        Check("json.word", "json_object without the word json in a message is a 400", word_json,
              ("json",)),
        Check("json.thinking", "reasoning is free, content is JSON", thinking_is_free,
              ("json", "thinking", "scripted")),
        Check("json.length", "max_tokens may cut it: length", cut_by_length, ("json",)),
        Check("json.schema", "json_schema: the answer obeys", schema_willing),
        Check("json.schema-unwilling", "json_schema: so does a model that would rather not",
              schema_unwilling),
        Check("json.schema-nested", "json_schema: arrays of objects", schema_nested),
        Check("json.schema-stream", "json_schema, streamed: the same text", schema_stream),
        Check("json.schema-thinking", "json_schema: reasoning is free, content obeys",
              schema_thinking, ("thinking", "scripted")),
        Check("json.schema-missing", "json_schema without a schema is refused",
              partial(_refused, {"type": "json_schema"})),
        Check("json.schema-name", "json_schema without a name is refused",
              partial(_refused, {"type": "json_schema", "json_schema": {"schema": PERSON}})),
        Check("json.schema-type", "a schema that is none is refused",
              partial(_refused, schema_format("x"))),
        Check("json.schema-unknown", "an unknown type in a schema is refused",
              partial(_refused, schema_format({"type": "strng"}))),
        Check("json.schema-remote", "a remote $ref is refused",
              partial(_refused, schema_format({"$ref": "http://127.0.0.1:9/x.json"}))),
        Check("json.hostile", "schemas made to hurt do not", hostile_schemas),
    ),
)  # fmt: skip
