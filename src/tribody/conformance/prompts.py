"""What to ask for a wanted answer: directives of the scripted engine, or words for a real model.

docs/scripted.md has the directives.  A real model may not do as it is told; `Target.obeyed` tells
that apart from a server that does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """User messages.  Texts must hold no `]]`."""

    scripted: bool

    def say(self, text: str) -> str:
        if self.scripted:
            return f"[[say: {text}]]"
        return f"Repeat the following text exactly and write nothing else: {text}"

    def think(self, thought: str, text: str) -> str:
        if self.scripted:
            return f"[[think: {thought}]][[say: {text}]]"
        return f"What is 2 + 3? Think about it, then answer in one short sentence. ({thought})"

    def call(self, name: str, arguments: Mapping[str, object], before: str = "") -> str:
        text = json.dumps(arguments, ensure_ascii=False)
        if self.scripted:
            said = f"[[say: {before}]]" if before else ""
            return f"{said}[[call: {name} {text}]]"
        return f"Call the function {name} with these arguments: {text}. Do not answer in words."

    def calls(self, *wanted: tuple[str, Mapping[str, object]]) -> str:
        if self.scripted:
            return "".join(self.call(name, arguments) for name, arguments in wanted)
        each = " and ".join(f"{name} with {json.dumps(arguments)}" for name, arguments in wanted)
        return f"Call both functions at once, in parallel: {each}."

    def count(self, words: int) -> str:
        """At least so many tokens of text."""
        if self.scripted:
            return f"[[count: {words}]]"
        return "Count from one to five hundred in words, separated by commas."

    def raw(self, text: str) -> str:
        """Scripted only: the model writes these characters, markup and all."""
        return f"[[raw: {text}]]"
