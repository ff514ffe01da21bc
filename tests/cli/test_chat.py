"""`tribody chat` against a running scripted server."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.server.scripted import THINKING, RunningServer, run_server, scripted_model
from tribody.cli.answers import Text
from tribody.cli.chat import ChatOptions, Conversation, run
from tribody.cli.engine_options import EngineOptions
from tribody.cli.http_client import NoServer, base_url
from tribody.cli.remote_answers import RemoteAnswers
from tribody.core.errors import BadConfig, BadRequest, EngineFailed

ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    server = run_server([scripted_model(chat_template=THINKING)])
    server.engine.script = lambda request, choice: "Hm.</think>Hello [b]you[/b]."
    yield server
    server.stop()


def options(
    running: RunningServer, message: str | None, thinking: bool | None = None
) -> ChatOptions:
    return ChatOptions(
        model=None,
        message=message,
        system="Be kind.",
        temperature=0,
        max_tokens=None,
        seed=None,
        thinking=thinking,
        url=f"{running.url}/v1/",
    )


def test_one_message(running: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(options(running, "Hi"), EngineOptions())
    assert capsys.readouterr().out == "Hm.Hello [b]you[/b].\n"
    prompt = running.engine.submitted[-1].prompt_token_ids
    text = running.engine.tokenizer.decode(prompt, skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nBe kind.")


def test_piped_input(
    running: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi there"))
    run(options(running, None), EngineOptions())
    assert "Hello" in capsys.readouterr().out


def test_a_conversation_remembers_and_clears(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["one", "", "two", "/clear", "three", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    running.engine.submitted.clear()
    answers = RemoteAnswers(running.url, None, None)
    Conversation(Console(file=io.StringIO()), answers, {"temperature": 0}, None).talk()
    lengths = [len(r.prompt_token_ids) for r in running.engine.submitted]
    assert lengths[1] > lengths[0]
    assert abs(lengths[2] - lengths[0]) == len("three") - len("one")


def test_pieces_are_labelled_and_errors_raised(running: RunningServer) -> None:
    answers = RemoteAnswers(running.url, None, None)
    pieces = list(answers.stream(ASK, {}))
    assert {piece.section for piece in pieces} == {"reasoning", "content"}
    assert all(isinstance(piece, Text) for piece in pieces)
    with pytest.raises(BadRequest, match="temperature"):
        list(answers.stream(ASK, {"temperature": 9}))
    running.engine.fail_after = 2
    with pytest.raises(EngineFailed, match="could not be computed"):
        list(answers.stream(ASK, {}))
    running.engine.fail_after = None


def test_without_thinking(running: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(options(running, "Hi", thinking=False), EngineOptions())
    prompt = running.engine.submitted[-1].prompt_token_ids
    text = running.engine.tokenizer.decode(prompt, skip_special_tokens=False)
    assert text.endswith("<think>\n\n</think>\n\n")
    assert "Hello" in capsys.readouterr().out


def test_a_switch_that_the_model_lacks_is_an_error() -> None:
    server = run_server([scripted_model()])
    try:
        with pytest.raises(BadRequest, match="no switch for thinking"):
            run(options(server, "Hi", thinking=True), EngineOptions())
    finally:
        server.stop()


def test_addresses() -> None:
    assert base_url("http://h:1/v1/") == "http://h:1"
    for bad in ("h:1", "ftp://h", "http://", ""):
        with pytest.raises(BadConfig):
            base_url(bad)
    with pytest.raises(NoServer):
        RemoteAnswers("http://127.0.0.1:1", None, None)
