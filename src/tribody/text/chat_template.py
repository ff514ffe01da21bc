"""Messages to a prompt, by the model's own chat template or DeepSeek's, thinking or not.

Which template: the one that the model's files bring (chat_template.jinja, tokenizer_config.json or
the GGUF's key); else, for `model_type` deepseek_v2 and deepseek_v3, the one built in
(`deepseek_templates`); else none, and the model can complete text but not chat.

What a caller may set besides the messages is whether the model thinks first.  Templates that have
a variable for it call it `enable_thinking` (Qwen) or `thinking` (DeepSeek): both are set.  R1's
opens `<think>` whatever is asked, and is closed again when no thinking is wanted.

The prompt holds the model's control tokens: encode it with `add_special_tokens=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from tribody.core.errors import BadModel, BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text import deepseek_templates
from tribody.text.reasoning import close_thinking
from tribody.text.special_tokens import special_token_strings
from tribody.text.template_engine import TemplateEngine, TemplateFailed
from tribody.text.template_process import TemplateProcess

THINKING_VARIABLES = ("enable_thinking", "thinking")

Message = Mapping[str, object]


class Renderer(Protocol):
    """A compiled template: `TemplateEngine` here, `TemplateProcess` at arm's length."""

    def render(self, variables: dict[str, object], now: datetime) -> str: ...


class ChatTemplate:
    """Renders conversations.  Safe to share between threads.

    `constants` are the strings that templates know by name (`bos_token`, ...); `now` is the clock
    behind `strftime_now`.
    """

    def __init__(
        self,
        renderer: Renderer,
        constants: Mapping[str, str],
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._renderer = renderer
        self._constants = dict(constants)
        self._now = now

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, object]] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """What the template makes of `messages`; `thinking` sets its variables, None leaves them.

        Raises: BadRequest if the template refuses the messages or fails on them.
        """
        wish = {} if thinking is None else dict.fromkeys(THINKING_VARIABLES, thinking)
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

    def prompt(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """The prompt for an answer: with thinking, without, or (None) as the template has it.

        A template that knows neither gives the same text for both.
        Raises: as `render`.
        """
        text = self.render(messages, add_generation_prompt=True, thinking=thinking)
        return close_thinking(text) if thinking is False else text


def chat_template_for(source: TokenizerSource, model_type: str) -> ChatTemplate | None:
    """The chat template of a model, or None when there is none (see the module's rule).

    Raises: BadModel if the model's template cannot be compiled.
    """
    constants = special_token_strings(source)
    own = source.chat_template
    if own is not None and own in deepseek_templates.ALL:
        # Our own text, which needs no process to guard against it.
        return ChatTemplate(TemplateEngine(own), constants)
    if own is not None:
        try:
            return ChatTemplate(TemplateProcess(own), constants)
        except TemplateFailed as error:
            raise BadModel(
                f"the model's chat template cannot be used: {error}; replace"
                " chat_template.jinja in the model's folder"
            ) from None
    built_in = deepseek_templates.template_for(model_type, _knows_think(source))
    if built_in is None:
        return None
    return ChatTemplate(
        TemplateEngine(built_in), {**deepseek_templates.constants(model_type), **constants}
    )


def _knows_think(source: TokenizerSource) -> bool:
    """True if `<think>` is a token of the vocabulary."""
    if source.gguf_vocabulary is not None:
        return "<think>" in source.gguf_vocabulary.tokens
    return b'"<think>"' in (source.tokenizer_json or b"")


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
