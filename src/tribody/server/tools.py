"""The tools that a chat request offers: checked, and as chat templates and grammars take them."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass

import msgspec

from tribody.core.errors import BadRequest, BadValue
from tribody.server import limits
from tribody.server.types import ChatRequest, FunctionTool
from tribody.text.json_schema import MAX_SCHEMA_BYTES

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CHOICES = ("none", "auto", "required")
ID_LETTERS = string.ascii_letters + string.digits
ID_LENGTH = 24


@dataclass(frozen=True)
class Toolbox:
    """`tools` in OpenAI's shape; `choice` is "none", "auto", "required" or the one tool's name.

    With "none" the model is told of no tool and what looks like a call is text.
    """

    tools: list[dict[str, object]]
    functions: list[FunctionTool]
    choice: str
    named: bool = False  # `choice` is a name
    parallel: bool = True  # more than one call in an answer

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and (self.named or self.choice != "none")

    @property
    def must_call(self) -> bool:
        return bool(self.tools) and (self.named or self.choice == "required")


def toolbox(fields: ChatRequest) -> Toolbox:
    """Raises: BadRequest that names what is wrong with `tools` or `tool_choice`."""
    given = fields.tools or []
    limits.check_count("tools", len(given), limits.MAX_TOOLS, "tools")
    functions: list[FunctionTool] = []
    for i, tool in enumerate(given):
        param = f"tools[{i}].function"
        if tool.type != "function":
            raise BadValue(
                f"tools[{i}].type {tool.type[:32]!r} is not supported; it must be 'function'.",
                param=f"tools[{i}].type",
            )
        _check(tool.function, param)
        if any(tool.function.name == other.name for other in functions):
            raise BadRequest(
                f"{param}.name {tool.function.name!r} is used twice.", param=f"{param}.name"
            )
        functions.append(tool.function)
    choice, named = _choice(fields, functions)
    parallel = fields.parallel_tool_calls is not False
    return Toolbox(msgspec.to_builtins(given), functions, choice, named, parallel)


def _check(function: FunctionTool, param: str) -> None:
    if NAME.fullmatch(function.name) is None:
        raise BadValue(
            f"{param}.name {function.name[:80]!r} must be 1 to 64 of letters, digits, _ and -.",
            param=f"{param}.name",
        )
    description = function.description or ""
    limits.check_count(
        f"{param}.description", len(description), limits.MAX_TOOL_DESCRIPTION, "characters"
    )
    size = len(msgspec.json.encode(function.parameters))
    if size > MAX_SCHEMA_BYTES:
        raise BadRequest(
            f"{param}.parameters has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed.",
            param=f"{param}.parameters",
        )
    kind = (function.parameters or {}).get("type", "object")
    if kind != "object":
        raise BadValue(
            f"{param}.parameters must be a schema of type 'object'.", param=f"{param}.parameters"
        )


def _choice(fields: ChatRequest, functions: list[FunctionTool]) -> tuple[str, bool]:
    choice = fields.tool_choice
    if choice is None:
        return ("auto" if functions else "none"), False
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise BadValue(
                f"tool_choice {choice[:32]!r} is not one of {', '.join(CHOICES)}, nor an object "
                "that names a function.",
                param="tool_choice",
            )
        if choice != "none" and not functions:
            raise BadRequest(f"tool_choice {choice!r} needs tools.", param="tool_choice")
        return choice, False
    if choice.type != "function":
        raise BadValue(
            f"tool_choice.type {choice.type[:32]!r} must be 'function'.", param="tool_choice.type"
        )
    name = choice.function.name
    if all(name != function.name for function in functions):
        raise BadRequest(
            f"tool_choice names {name[:64]!r}, which is not among the tools.", param="tool_choice"
        )
    return name, True


def call_id(index: int) -> str:
    """An id as DeepSeek's look: the call's number in its answer, and what nobody can guess."""
    return f"call_{index:02d}_" + "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
