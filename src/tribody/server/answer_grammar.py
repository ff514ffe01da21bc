"""The grammar that a chat request asks for: JSON, or calls of its tools.

A grammar holds the answer from its first token on, after the thinking.  It is written where the
request leaves no choice (`response_format`, tool_choice "required" or a name, strict tools, one
call at most); otherwise the model is free, and its calls are read as it writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tribody.core.errors import BadRequest, BadValue
from tribody.core.request import Thinking
from tribody.server.models_table import ServedModel
from tribody.server.tools import NAME, Toolbox
from tribody.server.types import ChatMessage, ChatRequest, FunctionTool, ResponseFormat
from tribody.text.grammar import ANY_OBJECT, grammar_of, json_rule
from tribody.text.grammar_process import GrammarCheck
from tribody.text.json_schema import check_schema, check_strict
from tribody.text.tool_formats.grammar import CallableTool, tool_answer

FORMATS = ("text", "json_object", "json_schema")


def answer_grammar(
    fields: ChatRequest,
    tools: Toolbox,
    model: ServedModel,
    thinking: Thinking,
    grammars: GrammarCheck,
) -> str | None:
    """None where the answer is free.  Raises: BadRequest for what cannot be followed."""
    schema = _json_schema(fields.response_format, fields.messages)
    if schema is not None and fields.messages[-1].prefix:
        raise BadRequest(
            "response_format cannot be followed by an answer that was begun (prefix: true).",
            param="response_format",
        )
    strict = any(function.strict for function in tools.functions)
    held = tools.may_call and (tools.must_call or strict or not tools.parallel)
    if not held and schema is None:
        return None

    def checked(answer: str, param: str) -> str:
        grammar = grammar_of(answer, thinking, model.tokenizer)
        grammars.check(grammar, model.engine.info.vocab_size, param)
        return grammar

    if schema is not None and not tools.may_call:
        return checked(json_rule("answer", schema), "response_format")
    try:
        return checked(_with_calls(tools, schema, model, loosely=False), "tools")
    except BadRequest:
        # Only strict tools promise that their schemas are kept to.
        return checked(_with_calls(tools, schema, model, loosely=True), "tools")


def _json_schema(given: ResponseFormat | None, messages: Sequence[ChatMessage]) -> str | None:
    """The schema of the whole answer; None: it is text."""
    if given is None or given.type == "text":
        return None
    if given.type not in FORMATS:
        raise BadValue(
            f"response_format.type {given.type[:32]!r} is not one of {', '.join(FORMATS)}.",
            param="response_format.type",
        )
    if given.type == "json_object":
        if not any(_speaks_of_json(message) for message in messages):
            raise BadRequest(
                "Prompt must contain the word 'json' in some form to use 'response_format' of "
                "type 'json_object'.",
                param="messages",
            )
        return ANY_OBJECT
    if given.json_schema is None or not NAME.fullmatch(given.json_schema.name):
        raise BadValue(
            "response_format.json_schema.name must be 1 to 64 of letters, digits, _ and -.",
            param="response_format.json_schema.name",
        )
    param = "response_format.json_schema.schema"
    schema = given.json_schema.schema
    if not isinstance(schema, dict):
        raise BadRequest("response_format of type 'json_schema' needs a schema.", param=param)
    return check_schema(schema, param)


def _speaks_of_json(message: ChatMessage) -> bool:
    content = message.content or ""
    texts = [content] if isinstance(content, str) else [part.text or "" for part in content]
    return any("json" in text.lower() for text in texts)


def _callable(function: FunctionTool, *, loosely: bool) -> CallableTool:
    """`loosely`: by its schema only if it is strict."""
    param = f"tools.{function.name}.parameters"
    if function.strict:
        check_strict(function.parameters or {}, param)
    elif loosely or function.parameters is None:
        return CallableTool(function.name)
    return CallableTool(function.name, check_schema(function.parameters or {}, param))


def _with_calls(tools: Toolbox, schema: str | None, model: ServedModel, *, loosely: bool) -> str:
    """The rule `answer`: calls of the tools that may be called, or (`schema`) JSON."""
    assert model.chat_template is not None
    chosen = [f for f in tools.functions if not tools.named or f.name == tools.choice]
    answer = tool_answer(
        model.chat_template.tool_format,
        [_callable(function, loosely=loosely) for function in chosen],
        model.tokenizer,
        must_call=tools.must_call or schema is not None,
        parallel=tools.parallel,
    )
    if schema is None or tools.must_call:
        return answer
    calls = answer.replace("answer:", "calls_answer:", 1)
    return "answer: json_answer | calls_answer\n" + calls + json_rule("json_answer", schema)
