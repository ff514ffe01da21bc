"""The thinking switch: request, then the name that was used, then the template; and what is said
of a wish that has no effect."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.server.scripted import (
    CHATML,
    THINKING,
    RunningServer,
    client_of,
    run_server,
    scripted_model,
    sse_payloads,
)

OPEN = "<|im_start|>assistant\n<think>\n"
CLOSED = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
VARIABLE = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{{ '<think>' if thinking is defined and thinking else '</think>' }}{% endif %}",
)
ALIASES = {"deepseek-reasoner": "m", "deepseek-chat": "m", "plain": "m"}
ENABLED, DISABLED = {"type": "enabled"}, {"type": "disabled"}


def serve(template: str) -> Iterator[RunningServer]:
    running = run_server([scripted_model("m", template)], aliases=ALIASES)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def always() -> Iterator[RunningServer]:
    """As R1: the template opens thinking and has no variable for it."""
    yield from serve(THINKING)


@pytest.fixture(scope="module")
def variable() -> Iterator[RunningServer]:
    """As V3.1: no thinking unless the variable says so."""
    yield from serve(VARIABLE)


@pytest.fixture(scope="module")
def never() -> Iterator[RunningServer]:
    yield from serve(CHATML)


def ask(running: RunningServer, **fields: object) -> httpx2.Response:
    running.engine.reset()
    running.engine.script = lambda request, choice: "42"
    body = {"model": "m", "messages": [{"role": "user", "content": "17 + 25"}], "temperature": 0}
    with client_of(running) as http:
        return http.post("/v1/chat/completions", json=body | fields)


def prompt(running: RunningServer) -> str:
    ids = running.engine.submitted[0].prompt_token_ids
    return running.engine.tokenizer.decode(ids, skip_special_tokens=False)


CASES: list[tuple[dict[str, object], bool | None]] = [
    ({}, None),
    ({"model": "plain"}, None),
    ({"model": "deepseek-reasoner"}, True),
    ({"model": "deepseek-chat"}, False),
    ({"thinking": ENABLED}, True),
    ({"thinking": DISABLED}, False),
    ({"thinking": None, "chat_template_kwargs": None}, None),
    ({"chat_template_kwargs": {}}, None),
    ({"chat_template_kwargs": {"thinking": True}}, True),
    ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ({"chat_template_kwargs": {"enable_thinking": False, "thinking": None}}, False),
    ({"thinking": DISABLED, "chat_template_kwargs": {"thinking": False}}, False),
    ({"model": "deepseek-chat", "thinking": ENABLED}, True),
    ({"model": "deepseek-reasoner", "chat_template_kwargs": {"thinking": False}}, False),
]


@pytest.mark.parametrize(("fields", "thinks"), CASES)
def test_who_decides(
    always: RunningServer, variable: RunningServer, fields: dict[str, object], thinks: bool | None
) -> None:
    answer = ask(always, **fields)
    assert answer.status_code == 200, answer.text
    assert "x-tribody-ignored" not in answer.headers
    assert prompt(always).endswith(CLOSED if thinks is False else OPEN)
    message = answer.json()["choices"][0]["message"]
    if thinks is False:
        assert message == {"role": "assistant", "content": "42", "refusal": None}
    else:
        assert message["reasoning_content"] == "42"
    assert answer.json()["model"] == "m"
    answer = ask(variable, **fields)
    assert "x-tribody-ignored" not in answer.headers
    # Who is not asked thinks, where the profile is 2026.
    assert prompt(variable).endswith("</think>" if thinks is False else "<think>")


def test_streams_without_thinking_have_no_reasoning(always: RunningServer) -> None:
    answer = ask(always, model="deepseek-chat", stream=True)
    deltas = [payload["choices"][0]["delta"] for payload in sse_payloads(answer.text)]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert not any("reasoning_content" in delta for delta in deltas)
    assert "".join(delta.get("content") or "" for delta in deltas) == "42"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, None),
        ({"model": "deepseek-reasoner"}, None),
        ({"thinking": ENABLED}, "thinking"),
        ({"thinking": DISABLED, "top_a": 1}, "top_a, thinking"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        (
            {"thinking": ENABLED, "chat_template_kwargs": {"thinking": True}},
            "thinking, chat_template_kwargs",
        ),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_a_model_without_the_switch_says_so(
    never: RunningServer, fields: dict[str, object], named: str | None
) -> None:
    answer = ask(never, **fields)
    assert answer.json()["choices"][0]["message"]["content"] == "42"
    assert answer.headers.get("x-tribody-ignored") == named


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"thinking": True}, "thinking", "Expected `object"),
        ({"thinking": {}}, "thinking.type", "Missing"),
        ({"thinking": {"type": "auto"}}, "thinking.type", "'auto' is not one of enabled, disabled"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "Expected `object"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "allowed are"),
        (
            {"chat_template_kwargs": {"thinking": "yes"}},
            "chat_template_kwargs.thinking",
            "must be true or false",
        ),
        (
            {"chat_template_kwargs": {"thinking": True, "enable_thinking": False}},
            "thinking",
            "chat_template_kwargs.thinking and chat_template_kwargs.enable_thinking contradict",
        ),
        (
            {"thinking": ENABLED, "chat_template_kwargs": {"enable_thinking": False}},
            "thinking",
            "thinking and chat_template_kwargs.enable_thinking contradict each other",
        ),
    ],
)
def test_bad_wishes_are_refused(
    always: RunningServer, fields: dict[str, object], param: str, words: str
) -> None:
    answer = ask(always, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert always.engine.submitted == []
