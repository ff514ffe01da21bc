"""A model's own chat template, run in a process of its own.

Fuel ends a template's loops, but nothing in minijinja bounds its memory, and a hostile template
can overflow its stack.  Here that costs one small process, not the server (`child_process`).  The
price is about 0.05 ms a rendering and 25 MB per model.

The module is both ends: `TemplateProcess` in the parent, `main` in the child (`python -m`).
"""

from __future__ import annotations

import threading
from datetime import datetime

import msgspec

from tribody.text import child_process
from tribody.text.child_process import ChildFailed, ChildProcess
from tribody.text.template_engine import FailureKind, TemplateEngine, TemplateFailed

DEADLINE_SECONDS = 2.0
# For one rendering.  A megabyte of messages takes about 10 ms and 20 MB (2-core x86-64 virtual
# machine).

START_SECONDS = 60.0
# For starting Python and compiling the template, 0.1 s when the machine is idle.


class _Compile(msgspec.Struct, tag="compile"):
    source: str


class _Render(msgspec.Struct, tag="render"):
    variables: dict[str, object]
    now: datetime


class _Answer(msgspec.Struct):
    """`text` of a rendering ("" for a compilation), or why there is none."""

    text: str = ""
    failure: FailureKind | None = None
    message: str = ""


class TemplateProcess:
    """The same interface as `TemplateEngine`.  Safe to share between threads; renders one by one.

    Raises: TemplateFailed("syntax") at construction if the template cannot be compiled.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child = ChildProcess("tribody.text.template_process")
        with self._lock:
            self._compile()

    def render(self, variables: dict[str, object], now: datetime) -> str:
        """As `TemplateEngine.render`; TemplateFailed("limit") if the child died or was too slow."""
        request = msgspec.json.encode(_Render(variables=variables, now=now))
        with self._lock:
            if not self._child.runs:
                self._compile()
            return self._ask(request, DEADLINE_SECONDS)

    def close(self) -> None:
        """Stop the child; a later `render` starts another."""
        with self._lock:
            self._child.stop()

    def _compile(self) -> None:
        try:
            self._ask(msgspec.json.encode(_Compile(source=self._source)), START_SECONDS)
        except TemplateFailed as error:
            self._child.stop()
            raise TemplateFailed("syntax", str(error)) from None

    def _ask(self, request: bytes, seconds: float) -> str:
        try:
            answer = msgspec.json.decode(self._child.ask(request, seconds), type=_Answer)
        except ChildFailed as error:
            raise TemplateFailed("limit", str(error)) from None
        if answer.failure is not None:
            raise TemplateFailed(answer.failure, answer.message)
        return answer.text


def main() -> None:
    """The child: one template, compiled by the first message, rendered by all others."""
    decoder = msgspec.json.Decoder(_Compile | _Render)
    engine: TemplateEngine | None = None
    for question in child_process.questions():
        message = decoder.decode(question)
        answer = _Answer()
        try:
            if isinstance(message, _Compile):
                engine = TemplateEngine(message.source)
            else:
                assert engine is not None, "the first message compiles"
                answer.text = engine.render(message.variables, message.now)
        except TemplateFailed as error:
            answer = _Answer(failure=error.kind, message=str(error))
        child_process.answer(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
