"""`tribody chat`: talk with a model in the terminal.

The conversation runs in the main thread (it reads the keyboard); a local model's event loop runs
in a second one.  Ctrl-C stops an answer, Ctrl-D or /exit ends, /clear forgets the conversation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.status import Status

from tribody.cli.answers import Fields, Message, Text, given_fields
from tribody.cli.engine_options import (
    DEFAULT_MODEL,
    EngineOptions,
    require_native,
)
from tribody.cli.environment import Environment, read_environment
from tribody.cli.local_answers import LocalAnswers
from tribody.cli.logs import start_logging
from tribody.cli.remote_answers import RemoteAnswers
from tribody.cli.script import config_for
from tribody.core.errors import BadRequest, TribodyError


@dataclass(frozen=True)
class ChatOptions:
    """As typed by the user."""

    model: str | None
    message: str | None
    system: str | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    thinking: bool | None
    url: str | None


class Answers(Protocol):
    """Where answers come from: a model in this command, or a server."""

    model: str

    def stream(self, messages: list[Message], fields: Fields) -> Iterator[Text]:
        """The answer's text as it comes.  Closing the iterator stops it."""
        ...


def run(options: ChatOptions, engine: EngineOptions) -> None:
    """Raises: TribodyError when no conversation can begin."""
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    console = Console(no_color=environment.no_color or None, highlight=False)
    fields = given_fields(
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
        thinking=options.thinking,
    )
    with _open(options, engine, environment) as answers:
        conversation = Conversation(console, answers, fields, options.system)
        if options.message is not None:
            conversation.ask(options.message)
        elif not sys.stdin.isatty():
            conversation.ask(sys.stdin.read())
        else:
            conversation.talk()


def _open(
    options: ChatOptions, engine: EngineOptions, environment: Environment
) -> AbstractContextManager[Answers]:
    url = options.url or environment.url
    # A URL from the environment is a default; a model named on the command line is a wish.
    if options.url is not None or (url is not None and options.model is None):
        assert url is not None
        return RemoteAnswers(url, environment.api_key, options.model)
    require_native()
    config = config_for(options.model or environment.model or DEFAULT_MODEL, engine, environment)
    with Status("loading the model", console=Console(stderr=True)):
        return LocalAnswers(config)


class Conversation:
    """The messages so far, and the terminal."""

    def __init__(
        self, console: Console, answers: Answers, fields: Fields, system: str | None
    ) -> None:
        self._console = console
        self._answers = answers
        self._fields = fields
        self._first: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._first)

    def talk(self) -> None:
        """Read and answer until the user leaves."""
        self._console.print(
            f"{self._answers.model}: Ctrl-C stops an answer; /clear forgets; /exit ends.",
            style="dim",
            markup=False,
        )
        while True:
            try:
                text = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            if text == "/exit":
                return
            if text == "/clear":
                self._messages = list(self._first)
            elif text:
                try:
                    self.ask(text)
                except BadRequest as error:
                    self._console.print(str(error), style="red", markup=False)
                    self._messages.pop()

    def ask(self, text: str) -> None:
        """Print the answer to `text` as it comes; what Ctrl-C leaves of it stays in the talk.

        Raises: TribodyError when there is no answer.
        """
        self._messages.append({"role": "user", "content": text})
        content: list[str] = []
        stream = self._answers.stream(self._messages, self._fields)
        try:
            for piece in stream:
                style = "dim" if piece.section == "reasoning" else None
                self._console.print(
                    piece.text, end="", style=style, markup=False, soft_wrap=True, emoji=False
                )
                self._console.file.flush()
                if piece.section == "content":
                    content.append(piece.text)
        except KeyboardInterrupt:
            self._console.print(" [stopped]", style="dim", markup=False, end="")
        except TribodyError:
            self._console.print()
            raise
        self._console.print()
        self._messages.append({"role": "assistant", "content": "".join(content)})
