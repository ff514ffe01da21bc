"""DeepSeek's prompt formats from V3.2 on, which were published as programs and not as templates.

Each encoder is a `Renderer` as a compiled template is; `thinking` and, for V4, `reasoning_effort`
are its variables.

    V3.2   system and tools, <｜User｜>..<｜Assistant｜>, <think> or </think>, answer and calls,
           eos; results in <function_results>, after which the same turn goes on.  Thinking is
           kept after the last user's message only.
    V4     results are <tool_result>s in a user's turn, with the user's text that follows them and
           in the order of the calls.  Thinking is kept everywhere where tools are given, else
           after the last user's turn only.  The effort "max" writes a text before everything.

They open the assistant's turn after any last message, where the published programs do so after
a user's only.  What is left out: V4's roles and tasks for DeepSeek's own services.

Source: `encoding/encoding_dsv32.py` of DeepSeek-V3.2, `encoding/encoding_dsv4.py` of DeepSeek-V4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from tribody.text.template_engine import TemplateFailed
from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.written import Tool, instructions, written_calls
from tribody.text.tool_messages import Message, calls_of

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_OF_THINKING = "<think>", "</think>"

EFFORT_MAX = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to"
    " resolve the root cause, rigorously stress-testing your logic against all potential paths,"
    " edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step,"
    " considered alternative, and rejected hypothesis to ensure absolutely no assumption is left"
    " unchecked.\n\n"
)

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class _Conversation:
    """The variables of a rendering, checked."""

    messages: list[Message]
    tools: list[Tool]
    thinking: bool
    opens_answer: bool
    effort: str | None

    @property
    def last_user(self) -> int:
        """The index of the last user's message, -1 if there is none."""
        indexes = [i for i, m in enumerate(self.messages) if m["role"] == "user"]
        return indexes[-1] if indexes else -1


def _conversation(variables: Mapping[str, object], *, thinks: bool) -> _Conversation:
    messages = cast(list[Message], variables["messages"])
    for message in messages:
        if message.get("role") not in _ROLES:
            raise TemplateFailed(
                "raised", f"this model's prompt format has no role '{message.get('role')}'"
            )
        if not isinstance(message.get("content"), str | None):
            raise TemplateFailed("raised", "this model's prompt format has text content only")
    effort = variables.get("reasoning_effort")
    return _Conversation(
        messages,
        cast(list[Tool], variables.get("tools") or []),
        bool(variables.get("thinking", thinks)),
        bool(variables["add_generation_prompt"]),
        effort if isinstance(effort, str) else None,
    )


class V32Encoder:
    """DeepSeek-V3.2's format; without a wish the model does not think."""

    def render(self, variables: dict[str, object], now: datetime) -> str:
        """The prompt.  Raises: TemplateFailed on roles and orders that the format has not."""
        talk = _conversation(variables, thinks=False)
        last_user = talk.last_user
        text = BOS + _system_of(talk, "deepseek_v3_2")
        opened = False  # the assistant's turn
        calls_open = 0  # whose results may still come
        for i, message in enumerate(talk.messages):
            content = _content(message)
            opening = THINK if talk.thinking and i >= last_user else END_OF_THINKING
            match message["role"]:
                case "user":
                    text += f"{USER}{content}{ASSISTANT}{opening}"
                case "assistant":
                    if not opened:
                        text += ASSISTANT + opening
                    if talk.thinking and i > last_user:
                        text += _reasoning(message) + END_OF_THINKING
                    calls = calls_of(message)
                    text += content + (written_calls("deepseek_v3_2", calls) if calls else "") + EOS
                    calls_open = len(calls)
                case "tool":
                    if calls_open == 0:
                        raise TemplateFailed(
                            "raised", "a tool message must follow the tool_calls that it answers"
                        )
                    text += f"{_results_open(talk, i)}\n<result>{content}</result>"
                    calls_open -= 1
                    if not _is_tool(talk, i + 1):
                        text += f"\n</function_results>\n\n{opening}"
                case "system" if i > 0:
                    text += content
            opened = message["role"] in ("user", "tool")
        if talk.opens_answer and not opened:
            text += ASSISTANT + (THINK if talk.thinking else END_OF_THINKING)
        return text


def _is_tool(talk: _Conversation, index: int) -> bool:
    return index < len(talk.messages) and talk.messages[index]["role"] == "tool"


def _results_open(talk: _Conversation, index: int) -> str:
    return "" if _is_tool(talk, index - 1) else "\n\n<function_results>"


class V4Encoder:
    """DeepSeek-V4's format; without a wish the model thinks, as its API has it."""

    def render(self, variables: dict[str, object], now: datetime) -> str:
        """The prompt.  Raises: TemplateFailed on roles that the format has not."""
        talk = _conversation(variables, thinks=True)
        keeps_thinking = bool(talk.tools)
        merged = _merged(talk.messages)
        users = [i for i, message in enumerate(merged) if message["role"] == "user"]
        last_user = users[-1] if users else -1
        text = BOS
        if talk.thinking and talk.effort == "max":
            text += EFFORT_MAX
        text += _system_of(talk, "deepseek_v4")
        opened = False
        for i, message in enumerate(merged):
            is_current = talk.thinking and (keeps_thinking or i >= last_user)
            content = _content(message)
            match message["role"]:
                case "user":
                    text += USER + content
                case "assistant":
                    if not opened:
                        text += ASSISTANT + (THINK if is_current else END_OF_THINKING)
                    if is_current:
                        text += _reasoning(message) + END_OF_THINKING
                    calls = calls_of(message)
                    text += content + (written_calls("deepseek_v4", calls) if calls else "") + EOS
                case "system" if i > 0:
                    text += content
            following = merged[i + 1]["role"] if i + 1 < len(merged) else None
            opened = message["role"] == "user" and following == "assistant"
            if opened:
                text += ASSISTANT + (THINK if is_current else END_OF_THINKING)
        if talk.opens_answer:
            text += ASSISTANT + (THINK if talk.thinking else END_OF_THINKING)
        return text


def _merged(messages: list[Message]) -> list[Message]:
    """Results and users' texts that follow each other as one user's turn."""
    merged: list[Message] = []
    order: dict[object, int] = {}  # of the latest calls, by id
    turn: list[Message] = []

    def close() -> None:
        if turn:
            text = "\n\n".join(_turn_part(part) for part in _in_call_order(turn, order))
            merged.append({"role": "user", "content": text})
            turn.clear()

    for message in messages:
        if message["role"] in ("user", "tool"):
            turn.append(message)
            continue
        close()
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            order = {call.get("id"): i for i, call in enumerate(calls) if call.get("id")}
        merged.append(message)
    close()
    return merged


def _in_call_order(turn: list[Message], order: dict[object, int]) -> list[Message]:
    """The turn with its results in the calls' order, each where one of them stood."""
    results = sorted(
        (part for part in turn if part["role"] == "tool"),
        key=lambda part: order.get(part.get("tool_call_id"), 0),
    )
    ordered = iter(results)
    return [next(ordered) if part["role"] == "tool" else part for part in turn]


def _turn_part(part: Message) -> str:
    content = _content(part)
    return f"<tool_result>{content}</tool_result>" if part["role"] == "tool" else content


def _system_of(talk: _Conversation, tool_format: ToolFormat) -> str:
    """A first system message's text and the tools."""
    first = talk.messages[0] if talk.messages else None
    text = _content(first) if first and first["role"] == "system" else ""
    return f"{text}\n\n{instructions(tool_format, talk.tools)}" if talk.tools else text


def _content(message: Message) -> str:
    return cast("str | None", message.get("content")) or ""


def _reasoning(message: Message) -> str:
    reasoning = message.get("reasoning_content")
    return reasoning if isinstance(reasoning, str) else ""
