"""Grammars that answers follow: JSON, a schema, and thinking before it, in llguidance's Lark.

The server writes a grammar, `grammar_process` tries it, and the engine draws only tokens that
continue it (`engine.guidance`).  A grammar is a rule named `answer`, with what it needs, and a
beginning that says where the answer begins.

A marker such as `</think>` is a special token in one vocabulary, an added token with that text in
a second and plain text in a third.  A special token is no text to llguidance and is written by its
id.  Where a marker has to stand, an added token is too: of text that must follow, or that several
markers share, llguidance allows only the spelling in other tokens, which no model has learnt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from tribody.core.request import Thinking
from tribody.text.json_schema import check_schema
from tribody.text.tokenizer import Tokenizer

WHITE_SPACE = r" |\n(?: {0,32}|\t{1,8})"
# Between two tokens of JSON, once: a space, or a new line and its indentation.  A model may write
# white space for ever where a grammar lets it.

ANY_OBJECT = '{"type":"object"}'  # as a schema's text

THINK, END_OF_THINKING = "<think>", "</think>"

_BEFORE = "LEAD: /[ \\t\\r\\n]{1,2}/\n"  # white space, which models like to begin an answer with
_FREE = "FREE: /(?s:.*)/\n"


def json_rule(name: str, schema_text: str) -> str:
    """A rule for a value of this schema, as `check_schema` returned it."""
    schema = msgspec.json.decode(schema_text, type=dict[str, msgspec.Raw])
    options = {"whitespace_pattern": WHITE_SPACE, "lenient": False}
    schema["x-guidance"] = msgspec.Raw(msgspec.json.encode(options))
    return f"{name}: %json {msgspec.json.encode(schema).decode()}\n"


def json_schema_answer(schema: Mapping[str, object], param: str) -> str:
    """JSON of this schema.  Raises: BadRequest if it is beyond the bounds of `json_schema`."""
    return json_rule("answer", check_schema(schema, param))


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text)


def marker(text: str, tokenizer: Tokenizer) -> str:
    """A marker that has to stand here, as this vocabulary has it: the token, else its text."""
    token_id = tokenizer.token_id(text)
    return literal(text) if token_id is None else f"<[{token_id}]>"


def is_special(text: str, tokenizer: Tokenizer) -> bool:
    """True if a marker is a special token, which free text cannot hold."""
    token_id = tokenizer.token_id(text)
    return token_id is not None and tokenizer.is_special(token_id)


def text_until(name: str, end: str, tokenizer: Tokenizer) -> str:
    """Rules: `name` is any text up to the first `end` and that too, a special token or spelled.

    They need the terminal FREE, which `grammar_of` gives.
    """
    spelled = f"[lazy]: FREE {literal(end)}\n"
    if not is_special(end, tokenizer):
        return name + spelled
    return f"{name}: {name}_spelled | FREE {marker(end, tokenizer)}\n{name}_spelled{spelled}"


def grammar_of(answer: str, thinking: Thinking, tokenizer: Tokenizer) -> str:
    """A whole grammar: free text while the model thinks, then the rule `answer`."""
    if thinking == "none":
        start = "start: LEAD? answer\n"
    else:
        start = "start: thought LEAD? answer\n"
        if thinking == "may":
            opened = marker(THINK, tokenizer)
            start = f"start: LEAD? ({opened} thought LEAD?)? answer\n"
        start += text_until("thought", END_OF_THINKING, tokenizer)
    return start + _BEFORE + _FREE + answer
