"""Messages to a prompt, by the model's own chat template or DeepSeek's, thinking or not.

Which template: the one that the model's files bring (chat_template.jinja, tokenizer_config.json or
the GGUF's key); else, by `model_type`, DeepSeek's: built in for deepseek_v2 and deepseek_v3
(`deepseek_templates`), written by a program for deepseek_v32 and deepseek_v4
(`deepseek_encoders`); else none, and the model can complete text but not chat.

What a caller may set besides the messages is whether the model thinks first, how hard, and the
tools.  Templates that have a variable for thinking call it `enable_thinking` (Qwen) or `thinking`
(DeepSeek): both are set.  R1's opens `<think>` whatever is asked, and is closed again when no
thinking is wanted.  What a template cannot do with tools is written into the messages
(`tool_messages`), so every model can be given tools.

The prompt holds the model's control tokens: encode it with `add_special_tokens=False`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Protocol

import msgspec

from tribody.core.errors import BadModel, BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text import deepseek_encoders, deepseek_templates
from tribody.text.reasoning import close_thinking, prompt_opens_thinking
from tribody.text.special_tokens import special_token_strings
from tribody.text.template_engine import TemplateEngine, TemplateFailed
from tribody.text.template_process import TemplateProcess
from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.special_token_calls import CALLS_BEGIN
from tribody.text.tool_formats.written import Tool
from tribody.text.tool_messages import Message, ToolUse, concerns_tools, prepared
from tribody.text.tool_probe import probed

THINKING_VARIABLES = ("enable_thinking", "thinking")

_EFFORTS = frozenset({"low", "medium", "high", "max"})
# Of templates that read the variable; what they make of each is theirs.

_PLAIN: list[Message] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "<think>t</think>b"},
    {"role": "user", "content": "c"},
]


class Renderer(Protocol):
    """A compiled template: `TemplateEngine` here, `TemplateProcess` at arm's length."""

    def render(self, variables: dict[str, object], now: datetime) -> str: ...


class ChatTemplate:
    """Renders conversations.  Safe to share between threads.

    `constants` are the strings that templates know by name (`bos_token`, ...); `now` is the clock
    behind `strftime_now`; `tool_use` is found by rendering where it is not given; `knows_token`
    tells whether a text is a token of the model's vocabulary; `efforts` are the values of
    reasoning_effort that change the prompt.
    """

    def __init__(
        self,
        renderer: Renderer,
        constants: Mapping[str, str],
        *,
        now: Callable[[], datetime] = datetime.now,
        tool_use: ToolUse | None = None,
        knows_token: Callable[[str], bool] = lambda _text: True,
        efforts: frozenset[str] = frozenset(),
    ) -> None:
        self._renderer = renderer
        self._constants = dict(constants)
        self._now = now
        self._tool_use = tool_use
        self._knows_token = knows_token
        self.efforts = efforts

    @cached_property
    def tool_use(self) -> ToolUse:
        """What this template does with tools."""
        if self._tool_use is not None:
            return self._tool_use
        return probed(
            lambda messages, tools: self.render(messages, add_generation_prompt=True, tools=tools),
            self._knows_token,
        )

    @property
    def tool_format(self) -> ToolFormat:
        """The format in which the model is asked to call tools: see `formats.tool_parser`."""
        return self.tool_use.tool_format

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] | None = None,
        thinking: bool | None = None,
        effort: str | None = None,
    ) -> str:
        """What the template makes of `messages`; `thinking` sets its variables, None leaves them.

        Raises: BadRequest if the template refuses the messages or fails on them.
        """
        wish: dict[str, object] = {}
        if thinking is not None:
            wish |= dict.fromkeys(THINKING_VARIABLES, thinking)
        if effort is not None:
            wish["reasoning_effort"] = effort
        context: dict[str, object] = {
            **self._constants,
            **wish,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            # A private copy of plain data, and proof that it is nothing else.
            plain = msgspec.json.decode(msgspec.json.encode(context), type=dict[str, object])
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRequest(
                f"messages: not plain JSON data ({str(error)[:100]})", param="messages"
            ) from None
        try:
            return self._renderer.render(plain, self._now())
        except TemplateFailed as error:
            raise _as_bad_request(error) from None

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        effort: str | None = None,
    ) -> str:
        """The prompt for an answer: with thinking, without, or (None) as the template has it.

        A template that knows neither gives the same text for both.  A last message of the
        assistant with `prefix: true` is continued: see `continues_thinking`.
        Raises: as `render`.
        """
        if messages and _is_prefix(messages[-1]):
            return self._continued(messages, thinking, tools, effort)
        given = None
        if tools or concerns_tools(messages):
            messages, given = prepared(messages, tools, self.tool_use)
        text = self.render(
            messages, add_generation_prompt=True, tools=given, thinking=thinking, effort=effort
        )
        return close_thinking(text) if thinking is False else text

    def _continued(
        self,
        messages: Sequence[Message],
        thinking: bool | None,
        tools: Sequence[Tool] | None,
        effort: str | None,
    ) -> str:
        """The prompt up to the end of the last message, which is the beginning of the answer."""
        *before, last = messages
        content, reasoning = (_text_of(last, key) for key in ("content", "reasoning_content"))
        if reasoning:
            thinking = True
        elif content:
            thinking = False
        text = self.prompt(before, thinking=thinking, tools=tools, effort=effort)
        if not reasoning:
            return text + content
        if not prompt_opens_thinking(text):
            if not self._knows_token("<think>"):
                raise BadRequest(
                    "this model does not think; leave reasoning_content out of the prefix",
                    param="messages",
                )
            text += "<think>\n"
        closing = "\n</think>\n\n" if text.endswith("\n") else "</think>"
        return f"{text}{reasoning}{closing}{content}" if content else text + reasoning


def continues_thinking(messages: Sequence[Message]) -> bool:
    """True if the prompt ends within thinking that a prefix began: its answer goes on thinking."""
    if not messages or not _is_prefix(messages[-1]):
        return False
    return bool(_text_of(messages[-1], "reasoning_content")) and not messages[-1].get("content")


def _is_prefix(message: Message) -> bool:
    return message.get("role") == "assistant" and bool(message.get("prefix"))


def _text_of(message: Message, key: str) -> str:
    text = message.get(key)
    if not isinstance(text, str | None):
        raise BadRequest(f"the {key} of a prefix must be text", param="messages")
    return text or ""


def chat_template_for(source: TokenizerSource, model_type: str) -> ChatTemplate | None:
    """The chat template of a model, or None when there is none (see the module's rule).

    Raises: BadModel if the model's template cannot be compiled.
    """
    constants = special_token_strings(source)
    own = source.chat_template
    if own is None:
        return _built_in(source, model_type, constants)
    known = deepseek_templates.known(own)
    if known is not None:
        # Our own text, which needs no process to guard against it.
        use = deepseek_templates.tool_use(known)
        return ChatTemplate(TemplateEngine(known), constants, tool_use=use)
    try:
        renderer = TemplateProcess(own)
    except TemplateFailed as error:
        raise BadModel(
            f"the model's chat template cannot be used: {error}; replace"
            " chat_template.jinja in the model's folder"
        ) from None
    template = ChatTemplate(
        renderer,
        constants,
        knows_token=lambda text: _knows(source, text),
        efforts=_EFFORTS if "reasoning_effort" in own else frozenset(),
    )
    if CALLS_BEGIN in own and _knows(source, CALLS_BEGIN) and not template.tool_use.writes_calls:
        return _with_stand_in(template, renderer, constants)
    return template


class _WithStandIn:
    """A template that loses calls, and ours of the same format for conversations with calls."""

    def __init__(self, own: Renderer, stand_in: Renderer) -> None:
        self._own = own
        self._stand_in = stand_in

    def render(self, variables: dict[str, object], now: datetime) -> str:
        messages = variables["messages"]
        has_calls = isinstance(messages, list) and concerns_tools(messages)
        return (self._stand_in if has_calls else self._own).render(variables, now)


def _with_stand_in(
    template: ChatTemplate, renderer: Renderer, constants: dict[str, str]
) -> ChatTemplate:
    """The template, with calls where it is DeepSeek's for V3 or R1 of the first months.

    Those write the calls of a message without content only, and the markers of the first round
    only.  Other templates stay as they are.
    """
    for text in (deepseek_templates.V3, deepseek_templates.R1):
        ours = ChatTemplate(TemplateEngine(text), constants)
        try:
            same = all(
                ours.render(_PLAIN, add_generation_prompt=prompt)
                == template.render(_PLAIN, add_generation_prompt=prompt)
                for prompt in (True, False)
            )
        except BadRequest:
            same = False
        if same:
            both = _WithStandIn(renderer, TemplateEngine(text))
            return ChatTemplate(both, constants, tool_use=deepseek_templates.tool_use(text))
    return template


def _built_in(
    source: TokenizerSource, model_type: str, constants: dict[str, str]
) -> ChatTemplate | None:
    """DeepSeek's format for a checkpoint that brings no template."""
    constants = {**deepseek_templates.constants(model_type), **constants}
    match model_type:
        case "deepseek_v32":
            use = ToolUse("deepseek_v3_2", writes_tools=True, writes_calls=True)
            return ChatTemplate(deepseek_encoders.V32Encoder(), constants, tool_use=use)
        case "deepseek_v4":
            use = ToolUse("deepseek_v4", writes_tools=True, writes_calls=True)
            efforts = frozenset({"max"})
            return ChatTemplate(
                deepseek_encoders.V4Encoder(), constants, tool_use=use, efforts=efforts
            )
    text = deepseek_templates.template_for(model_type, _knows(source, "<think>"))
    if text is None:
        return None
    return ChatTemplate(TemplateEngine(text), constants, tool_use=deepseek_templates.tool_use(text))


def _knows(source: TokenizerSource, text: str) -> bool:
    """True if `text` is a token of the vocabulary."""
    if source.gguf_vocabulary is not None:
        return text in source.gguf_vocabulary.tokens
    tokens = source.tokenizer_json or b""
    spellings = {json.dumps(text, ensure_ascii=ascii_only) for ascii_only in (True, False)}
    return any(spelling.encode() in tokens for spelling in spellings)


def _as_bad_request(error: TemplateFailed) -> BadRequest:
    match error.kind:
        case "raised":
            text = str(error)
        case "fuel":
            text = f"the conversation is too long for the model's chat template ({error})"
        case "limit":
            text = f"the model's chat template {error} on these messages"
        case _:
            text = f"the model's chat template cannot render these messages ({error})"
    return BadRequest(text, param="messages")
