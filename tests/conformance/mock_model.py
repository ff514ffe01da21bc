"""What the mock's model answers: the directives of the scripted model, as far as tests use them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Json = dict[str, object]

DIRECTIVE = re.compile(r"\[\[(say|think|call|count): (.*?)\]\]", re.DOTALL)


@dataclass
class Said:
    reasoning: str | None = None
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str = "stop"


def said(body: Json) -> Said:
    """What the model answers to a chat request."""
    messages = body["messages"]
    assert isinstance(messages, list)
    text = str(messages[-1]["content"])
    thinks = body.get("thinking") != {"type": "disabled"}
    turn = Said(reasoning="" if thinks else None)
    for kind, what in DIRECTIVE.findall(text):
        if kind == "say":
            turn.content += what
        elif kind == "think" and thinks:
            turn.reasoning = what
        elif kind == "call" and body.get("tools") and body.get("tool_choice") != "none":
            name, _, arguments = what.partition(" ")
            turn.calls.append((name, arguments))
            turn.finish_reason = "tool_calls"
        elif kind == "count":
            turn.content += " ".join(f"word{i + 1}" for i in range(int(what)))
    most = body.get("max_tokens")
    if isinstance(most, int) and most < len(turn.content):
        turn.content, turn.finish_reason = turn.content[:most], "length"
    stop = body.get("stop")
    for mark in [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []:
        turn.content = turn.content.partition(mark)[0]
    return turn
