"""Grammars of answers with calls, in each format, for `text.grammar`.

`tool_answer` gives the rule `answer`.  An answer that must call begins with a call; one that may
is free text until a call begins, and from there the calls and nothing after them.  Arguments
follow the tool's JSON schema.  In DSML each property is a parameter, in the schema's order: a
plain string or one of a list of strings as text, everything else as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tribody.core.errors import BadRequest
from tribody.text.grammar import ANY_OBJECT, is_special, json_rule, literal, marker, text_until
from tribody.text.json_schema import subschemas
from tribody.text.tokenizer import Tokenizer
from tribody.text.tool_formats import dsml_calls, hermes_calls
from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.markup import MAX_NAME_CHARACTERS
from tribody.text.tool_formats.special_token_calls import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    SEPARATOR,
)

_DEFINITIONS = ("$defs", "$def", "definitions")
_PLAIN_STRING = frozenset({"type", "title", "description", "default", "enum", "const"})
_MARKER = re.compile(f"({CALLS_BEGIN}|{hermes_calls.OPEN}|{dsml_calls.TOKEN})")
_NO_NAME = re.compile('["<>\\n\\r]')


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool that may be called; `schema` is its parameters' text as `check_schema` returned it."""

    name: str
    schema: str = ANY_OBJECT


def tool_answer(
    tool_format: ToolFormat,
    tools: Sequence[CallableTool],
    tokenizer: Tokenizer,
    *,
    must_call: bool,
    parallel: bool = True,
) -> str:
    """The rule `answer` and what it needs: at least one call (`must_call`), or free text till one.

    For one named tool give that tool alone.
    Raises: BadRequest for schemas that the format cannot write.
    """
    match tool_format:
        case "deepseek_v3" | "deepseek_v3_1":
            opening, calls, rules = _special_tokens(tool_format, tools, tokenizer, parallel)
        case "deepseek_v3_2" | "deepseek_v4":
            opening, calls, rules = _dsml(tool_format, tools, tokenizer, parallel)
        case "hermes":
            opening, calls, rules = _hermes(tools, tokenizer, parallel)
    if must_call:
        return f"answer: {_marked(opening, tokenizer)} {calls}\n{rules}"
    return f"answer: FREE | until_call {calls}\n{_until('until_call', opening, tokenizer)}{rules}"


def _special_tokens(
    tool_format: ToolFormat, tools: Sequence[CallableTool], tokenizer: Tokenizer, parallel: bool
) -> tuple[str, str, str]:
    begin, end, separator, calls_end = (
        marker(text, tokenizer) for text in (CALL_BEGIN, CALL_END, SEPARATOR, CALLS_END)
    )
    is_v3 = tool_format == "deepseek_v3"
    rules = _choice("call", len(tools))
    for i, tool in enumerate(tools):
        if is_v3:
            head = f'"function" {separator} {literal(tool.name + chr(10) + "```json" + chr(10))}'
            tail = literal("\n```") + " "
        else:
            head, tail = f"{literal(tool.name)} {separator}", ""
        rules += f"call_{i}: {begin} {head} arguments_{i} {tail}{end}\n"
        rules += json_rule(f"arguments_{i}", tool.schema)
    between = literal("\n") + " " if is_v3 else ""
    more = f" ({between}call)*" if parallel else ""
    return CALLS_BEGIN, f"call{more} {calls_end}", rules


def _hermes(
    tools: Sequence[CallableTool], tokenizer: Tokenizer, parallel: bool
) -> tuple[str, str, str]:
    close = f"{literal(chr(10))} {marker(hermes_calls.CLOSE, tokenizer)}"
    rules = _choice("call", len(tools))
    for i, tool in enumerate(tools):
        head = literal(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
        rules += f"call_{i}: {head} arguments_{i} {literal('}')} {close}\n"
        rules += json_rule(f"arguments_{i}", tool.schema)
    more = f" ({literal(chr(10))} {marker(hermes_calls.OPEN, tokenizer)} call)*" if parallel else ""
    return hermes_calls.OPEN, f"call{more}", rules


def _dsml(
    tool_format: ToolFormat, tools: Sequence[CallableTool], tokenizer: Tokenizer, parallel: bool
) -> tuple[str, str, str]:
    block = dsml_calls.BLOCKS[tool_format]
    rules = _choice("call", len(tools))
    rules += _until("text_value", dsml_calls.PARAMETER_CLOSE, tokenizer)
    for i, tool in enumerate(tools):
        head = _marked(f'\n{dsml_calls.INVOKE} name="{tool.name}">\n', tokenizer)
        parameters, more_rules = _parameters(i, tool, tokenizer)
        rules += f"call_{i}: {head} {parameters}{_marked(dsml_calls.INVOKE_CLOSE, tokenizer)}\n"
        rules += more_rules
    more = " call*" if parallel else ""
    close = _marked(f"\n</{dsml_calls.TOKEN}{block}>", tokenizer)
    return f"<{dsml_calls.TOKEN}{block}>", f"call{more} {close}", rules


def _parameters(number: int, tool: CallableTool, tokenizer: Tokenizer) -> tuple[str, str]:
    """A tool's parameters as a sequence, with the rules that it needs."""
    schema = json.loads(tool.schema)
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        if schema.get("additionalProperties") is False:
            return "", ""
        return f"any_{number}* ", _any_parameter(number, tokenizer)
    _check_references(schema, tool.name)
    required = schema.get("required")
    sequence, rules = "", ""
    for i, (key, value) in enumerate(properties.items()):
        name = f"parameter_{number}_{i}"
        needed = isinstance(required, list) and key in required
        sequence += f"{name} " if needed else f"({name})? "
        rules += _parameter(name, key, value, schema, tokenizer)
    return sequence, rules


def _parameter(
    name: str, key: str, value: object, schema: Mapping[str, object], tokenizer: Tokenizer
) -> str:
    if _NO_NAME.search(key) or not 0 < len(key) <= MAX_NAME_CHARACTERS:
        raise BadRequest(
            f"tools: the property {key[:64]!r} cannot be written in this model's format of calls;"
            f" use 1 to {MAX_NAME_CHARACTERS} characters other than quotes, <, > and line breaks.",
            param="tools",
        )
    close = _marked(f"{dsml_calls.PARAMETER_CLOSE}\n", tokenizer)
    start = f'{dsml_calls.PARAMETER} name="{key}" string='
    texts = _texts(value)
    if texts is None:
        definitions = {k: schema[k] for k in _DEFINITIONS if k in schema}
        part = {**definitions, **value} if isinstance(value, dict) else {}
        body = _marked(f'{start}"false">', tokenizer)
        return f"{name}: {body} {name}_value {close}\n" + json_rule(
            f"{name}_value", json.dumps(part)
        )
    body = _marked(f'{start}"true">', tokenizer)
    if not texts:
        return f"{name}: {body} text_value {literal(chr(10))}\n"
    choices = " | ".join(map(literal, texts))
    return f"{name}: {body} ({choices}) {close}\n"


def _texts(schema: object) -> list[str] | None:
    """The strings that a schema allows, none for any string; None if it needs JSON."""
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN_STRING:
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None:
        return [] if schema.get("type") == "string" else None
    texts = [value for value in values if isinstance(value, str)]
    plain = len(texts) == len(values) > 0 and schema.get("type", "string") == "string"
    # An empty text has no terminal, and a marker in one would end it.
    return texts if plain and all(t and dsml_calls.TOKEN not in t for t in texts) else None


def _any_parameter(number: int, tokenizer: Tokenizer) -> str:
    """Any parameter, for a tool that names none."""
    start = _marked(f'{dsml_calls.PARAMETER} name="', tokenizer)
    close = _marked(f"{dsml_calls.PARAMETER_CLOSE}\n", tokenizer)
    as_text = literal('" string="true">')
    as_json = literal('" string="false">')
    name = f"any_{number}"
    return (
        f"{name}: {start} {name}_key ({as_text} text_value {literal(chr(10))}"
        f" | {as_json} {name}_value {close})\n"
        f'{name}_key: /[^"<>\\n\\r]{{1,64}}/\n'
    ) + json_rule(f"{name}_value", "{}")


def _check_references(schema: Mapping[str, object], name: str) -> None:
    """Parameters are checked one by one: only the definitions go with each of them."""
    for path, node in subschemas(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith(
            tuple(f"#/{key}/" for key in _DEFINITIONS)
        ):
            raise BadRequest(
                f"tools: {name}.parameters{path}.$ref is {reference[:64]!r}; in this model's format"
                " of calls it must point into $defs or definitions.",
                param="tools",
            )


def _choice(name: str, count: int) -> str:
    return f"{name}: {' | '.join(f'{name}_{i}' for i in range(count))}\n"


def _marked(text: str, tokenizer: Tokenizer) -> str:
    """A fixed text, with the special tokens that it holds."""
    parts = []
    for part in _MARKER.split(text):
        if part:
            parts.append(marker(part, tokenizer) if _MARKER.fullmatch(part) else literal(part))
    return " ".join(parts)


def _until(name: str, end: str, tokenizer: Tokenizer) -> str:
    """Rules: `name` is any text up to the first `end` and that too."""
    before, token, after = end.rpartition(dsml_calls.TOKEN)
    if not token or not is_special(token, tokenizer):
        return text_until(name, end, tokenizer)
    # The special token stands inside of `end`, and free text cannot hold it.
    pattern = before.replace("/", "\\/")
    return (
        f"{name}: {name}_before {marker(token, tokenizer)} {literal(after)}\n"
        f"{name}_before: /(?s:.*){pattern}/\n"
    )
