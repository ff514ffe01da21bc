"""The scripted engine's text side: its vocabulary, its prompt format, and prompts read back.

The vocabulary is the 256 bytes, whose ids are their values, then control tokens in DeepSeek's
spelling.  A prompt is one line of JSON for the tools and one for each message, so that an executor
that sees token ids only can read the conversation back exactly; JSON has no line breaks of its own.
Answers stand in it as they were generated, so that a conversation that goes on finds all of its
last round in the prefix cache:

    <｜begin▁of▁sentence｜>{"tools":null}
    {"role":"user","content":"Hi"}
    <｜Assistant｜></think>You said: Hi<｜end▁of▁sentence｜>
    {"role":"user","content":"Go on"}
    <｜Assistant｜><think>

Earlier thinking stands in it where there are tools, as in DeepSeek-V4's prompts.

Traded away: an earlier answer that holds a line which looks like a message is read as one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.gguf_vocabulary import byte_level_alphabet

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
TOOL_SEP = "<｜tool▁sep｜>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"

CONTROL = (BOS, EOS)  # no part of any text
MARKS = (
    *(USER, ASSISTANT, THINK, END_THINK),
    *(CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, TOOL_SEP),
    *(FIM_BEGIN, FIM_HOLE, FIM_END),
)
_FIRST_LINE = BOS + '{"tools":'
_ANSWER = f"\n{ASSISTANT}"

TEMPLATE = """\
{{- bos_token + {'tools': tools} | tojson(separators=[',', ':']) + '\\n' -}}
{%- for message in messages -%}
  {%- if message['role'] != 'assistant' -%}
    {{- message | tojson(separators=[',', ':']) + '\\n' -}}
  {%- else -%}
    {%- set thought = message['reasoning_content'] if tools else '' -%}
    {{- '<｜Assistant｜>' + ('<think>' + thought if thought else '') -}}
    {{- '</think>' + (message['content'] or '') -}}
    {%- if message['tool_calls'] -%}
      {{- '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message['tool_calls'] -%}
        {%- set arguments = call['function']['arguments'] -%}
        {%- if arguments is not string -%}{%- set arguments = arguments | tojson -%}{%- endif -%}
        {{- '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' + arguments -}}
        {{- '<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' -}}
    {%- endif -%}
    {{- eos_token + '\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<｜Assistant｜>' + ('<think>' if thinking is defined and thinking else '</think>') -}}
{%- endif -%}
"""


def tokenizer_source() -> TokenizerSource:
    """The vocabulary and the template, as a checkpoint would bring them."""
    inner = tokenizers.Tokenizer(models.BPE(vocab=byte_level_alphabet(), merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(CONTROL))
    inner.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return TokenizerSource(
        tokenizer_json=inner.to_str().encode(),
        tokenizer_config={"bos_token": BOS, "eos_token": EOS, "add_bos_token": False},
        chat_template=TEMPLATE,
    )


@dataclass(frozen=True)
class Conversation:
    """What a prompt says.  A prompt of plain text is one message by nobody.

    `messages` leaves the assistant's out.  `last_turn`: the messages after the last answer, all
    tool results where the last message is one.  `begun`: what of the answer the prompt gives.
    """

    prompt: str
    messages: list[dict[str, object]] = field(default_factory=list)
    last_turn: list[dict[str, object]] = field(default_factory=list)
    tools: list[dict[str, object]] = field(default_factory=list)
    thinking: bool = False
    begun: str = ""

    @property
    def role(self) -> str:
        """Who spoke last."""
        return str(self.last_turn[-1].get("role")) if self.last_turn else ""

    @property
    def last_text(self) -> str:
        """What was said last; of several tool results, one a line."""
        return "\n".join(str(message.get("content") or "") for message in self.last_turn)


def read(prompt: str) -> Conversation:
    """The conversation that a prompt holds, or the plain text that it is."""
    before, found, answer = prompt.rpartition(_ANSWER)
    if not (found and prompt.startswith(_FIRST_LINE)):
        return Conversation(prompt, last_turn=[{"role": "", "content": prompt}])
    first, *lines = before[len(BOS) :].split("\n")
    read_back = [_message(line) for line in lines]
    messages = [message for message in read_back if message is not None]
    return Conversation(
        prompt,
        messages,
        _last_turn(read_back),
        _tools(first),
        thinking=answer.startswith(THINK) and END_THINK not in answer,
        begun=answer.removeprefix(THINK).rpartition(END_THINK)[2],
    )


def _message(line: str) -> dict[str, object] | None:
    """The message that a line is; None for a line of an answer."""
    if not line.startswith('{"'):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message.get("role"), str) else None


def _last_turn(read_back: list[dict[str, object] | None]) -> list[dict[str, object]]:
    turn: list[dict[str, object]] = []
    for message in reversed(read_back):
        if message is None or (turn and not message["role"] == turn[0]["role"] == "tool"):
            break
        turn.insert(0, message)
    return turn


def _tools(line: str) -> list[dict[str, object]]:
    """The functions that may be called, each with its name, from the prompt's first line."""
    try:
        tools = json.loads(line)["tools"] or []
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    return [f for f in functions if isinstance(f, dict) and isinstance(f.get("name"), str)]
