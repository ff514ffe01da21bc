"""What the scripted engine says to a prompt: rules in, the parts of one answer out.

The rules are those of docs/scripted.md.  The last message decides, whoever sent it; what it asks
for in double square brackets (`[[say: Hello]]`) is done to the letter, else it is answered by rule.
Nothing is random here and nothing depends on anything but the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tribody.engine import scripted_text as text
from tribody.engine.scripted_arguments import Filler, quoted
from tribody.engine.scripted_text import Conversation

FaultKind = Literal["fail", "hang", "die"]


@dataclass(frozen=True, slots=True)
class Plain:
    """Text in which nothing is a control token, whatever it looks like."""

    text: str


@dataclass(frozen=True, slots=True)
class Raw:
    """Text in which control tokens are control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class RandomLetters:
    """So many letters, drawn by the sampler."""

    count: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens before the next token: this answer or (`whole_step`) all of them fail, the
    engine stands still, or its process ends."""

    kind: FaultKind
    seconds: float = 0.0
    whole_step: bool = False


Part = Plain | Raw | RandomLetters | Fault


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Directive:
    """One `[[name: value]]`."""

    name: str
    value: str


_NAMES = ("say", "think", "call", "count", "repeat", "random", "raw", "prompt")
_DIRECTIVE = re.compile(rf"\[\[({'|'.join([*_NAMES, *get_args(FaultKind)])})(?::|(?=\]\]))")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MAX_COUNT = 1 << 20  # more words or letters than any context holds
MOST_DIRECTIVES = 64  # each may take a look at all of the text
_MAX_HANG_SECONDS = 3600.0

FAULTS_ARE_OFF = "Failures are off; start the server with scripted:faults."


def answer(conversation: Conversation, *, faults: bool) -> list[Part]:
    """The whole answer: thinking where it is on, then what is said or called."""
    directives = _directives(conversation.last_text)
    thoughts, parts = _by_rule(conversation)
    said = [directive for directive in directives if directive.name != "think"]
    if said:
        parts = _obey(said, conversation, faults=faults)
    if len(said) < len(directives):
        thoughts = "".join(each.value for each in directives if each.name == "think")
    if conversation.thinking:
        parts = [Plain(thoughts), Raw(text.END_THINK), *parts]
    first = parts[0] if parts else None
    if isinstance(first, Plain):
        # What the prompt has begun to say is not said again.
        parts[0] = Plain(first.text.removeprefix(conversation.begun))
    return parts


# ---- directives


def _directives(said: str) -> list[Directive]:
    """The first directives of a message, in their order; text around them says nothing."""
    found: list[Directive] = []
    place = 0
    while (match := _DIRECTIVE.search(said, place)) and len(found) < MOST_DIRECTIVES:
        end = _end(said, match.end())
        if end is None:
            break
        found.append(Directive(match[1], said[match.end() : end].removeprefix(" ")))
        place = end + 2
    return found


def _end(said: str, place: int) -> int | None:
    """Where the `]]` stands that closes a directive: the first one outside of brackets, or the
    first one where the brackets inside do not match."""
    depth = 0
    for i in range(place, len(said)):
        if depth == 0 and said.startswith("]]", i):
            return i
        depth += (said[i] == "[") - (said[i] == "]" and depth > 0)
    first = said.find("]]", place)
    return None if first < 0 else first


def _obey(
    directives: Sequence[Directive], conversation: Conversation, *, faults: bool
) -> list[Part]:
    """What to say; calls come last, as one block."""
    parts: list[Part] = []
    calls: list[Call] = []
    for directive in directives:
        if directive.name == "call":
            name, _, arguments = directive.value.partition(" ")
            calls.append(Call(name, arguments.strip() or "{}"))
        elif directive.name in get_args(FaultKind):
            parts.append(_fault(directive) if faults else Plain(FAULTS_ARE_OFF))
        else:
            parts.append(_part(directive, conversation))
    if calls:
        parts.append(Raw(_written(calls)))
    return parts


def _part(directive: Directive, conversation: Conversation) -> Part:
    value = directive.value
    match directive.name:
        case "say":
            return Plain(value)
        case "raw":
            return Raw(value)
        case "count":
            return Plain(" ".join(f"word{i}" for i in range(1, _number(value) + 1)))
        case "random":
            return RandomLetters(_number(value))
        case "repeat":
            times, _, what = value.partition(" ")
            count = min(_number(times), _MAX_COUNT // max(1, len(what)))
            return Plain(what * count)
        case _:
            return Plain(conversation.prompt)


def _fault(directive: Directive) -> Fault:
    match directive.name:
        case "fail":
            return Fault("fail", whole_step=directive.value == "all")
        case "hang":
            digits = directive.value.replace(".", "", 1)
            seconds = float(directive.value) if digits.isascii() and digits.isdigit() else 1.0
            return Fault("hang", min(seconds, _MAX_HANG_SECONDS))
        case _:
            return Fault("die")


def _number(value: str) -> int:
    """The number that a directive begins with; 0 for none."""
    digits = re.match(r"\d{1,9}", value)
    return min(int(digits[0]), _MAX_COUNT) if digits else 0


def _written(calls: Sequence[Call]) -> str:
    """Calls as DeepSeek-V3.1 writes them."""
    written = "".join(
        f"{text.CALL_BEGIN}{call.name}{text.TOOL_SEP}{call.arguments}{text.CALL_END}"
        for call in calls
    )
    return f"{text.CALLS_BEGIN}{written}{text.CALLS_END}"


# ---- answers by rule


def _by_rule(conversation: Conversation) -> tuple[str, list[Part]]:
    said = conversation.last_text
    thoughts = f"The last message has {len(said)} characters."
    if conversation.role == "tool":
        return thoughts, [_told(conversation)]
    if conversation.role == "":
        return thoughts, [Plain(_continuation(said))]
    chosen = _tools_for(conversation)
    if chosen:
        filler = Filler(said)
        calls = [
            Call(str(tool["name"]), _compact(filler.arguments(tool.get("parameters"))))
            for tool in chosen
        ]
        names = ", ".join(call.name for call in calls)
        return f"{thoughts} I call {names}.", [Raw(_written(calls))]
    if _wishes_json(conversation):
        keys = dict.fromkeys(word for word in quoted(said) if _IDENTIFIER.fullmatch(word))
        fields = {key: key for key in keys} or {"answer": said}
        return thoughts, [Plain(_compact(fields))]
    return thoughts, [Plain(f"You said: {said}")]


def _told(conversation: Conversation) -> Part:
    results = [str(message.get("content") or "") for message in conversation.last_turn]
    return Plain(f"The tools said: {'; '.join(results)}")


def _continuation(prompt: str) -> str:
    """What follows plain text, or stands in the hole of a text to fill in."""
    if text.FIM_HOLE in prompt:
        return " filled in "
    return f" You said: {prompt}"


def _tools_for(conversation: Conversation) -> list[dict[str, object]]:
    """Every tool that the text names, in the order of the text; else the first tool where the text
    speaks of tools or there is no other; else none."""
    tools, said = conversation.tools, conversation.last_text
    places = [(said.find(str(tool["name"])), i) for i, tool in enumerate(tools)]
    named = [tools[i] for place, i in sorted(places) if place >= 0]
    if named or not tools:
        return named
    return tools[:1] if len(tools) == 1 or "tool" in said.lower() else []


def _wishes_json(conversation: Conversation) -> bool:
    """Whether a system message or the last message says `json` or `schema`."""
    spoken = [conversation.last_text]
    for message in conversation.messages:
        if message.get("role") == "system":
            spoken.append(str(message.get("content")))
    words = " ".join(spoken).lower()
    return "json" in words or "schema" in words


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
