"""DeepSeek's own shapes (the default), its two contracts, and who is spoken to how."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server.scripted import (
    THINKING,
    Held,
    RunningServer,
    client_of,
    run_server,
    scripted_model,
    sse_payloads,
)
from tribody.core.api_settings import ApiSettings, with_options
from tribody.server.auth import KeyFile

CHAT = "/chat/completions"
ASK = [{"role": "user", "content": "17 + 25"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_00_x", "function": {"name": "add", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_00_x", "content": "42"}
BACK = "The `reasoning_content` in the thinking mode must be passed back to the API."


def serve(tmp: Path, **chosen: object) -> RunningServer:
    """A thinking model and a plain one; a key for each profile and for OpenAI's style."""
    keys = tmp / "keys"
    keys.write_text(
        "key-of-2026\nkey-of-2025 profile=2025\n"
        "key-of-openai errors=openai, usage=openai sampling=openai\nkey-of-one max-concurrency=1\n"
    )
    models = [scripted_model("thinker", THINKING), scripted_model("plain")]
    return run_server(models, keys=KeyFile.read(keys), api=ApiSettings())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = serve(tmp_path_factory.mktemp("keys"))
    yield server
    server.stop()


def ask(running: RunningServer, key: str, **fields: object) -> httpx2.Response:
    body = {"model": "plain", "messages": ASK, "max_tokens": 40, **fields}
    with client_of(running) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        return http.post(CHAT, json=body)


def test_deepseeks_stream_ends_with_usage_and_without_a_chunk_of_its_own(
    running: RunningServer,
) -> None:
    chunks = sse_payloads(ask(running, "key-of-2026", stream=True).text)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    last = chunks[-1]["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({"content": ""}, "stop")
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_with_several_choices_the_last_to_end_brings_the_usage(running: RunningServer) -> None:
    chunks = sse_payloads(ask(running, "key-of-2026", stream=True, n=3).text)
    ends = [c for c in chunks if c["choices"][0]["finish_reason"]]
    assert [bool(c["usage"]) for c in ends] == [False, False, True]
    assert ends[-1] is chunks[-1]


@pytest.mark.parametrize(
    ("fields", "deepseek", "openai"),
    [
        ({"temperature": 3}, 422, 400),
        ({"temperature": "hot"}, 422, 400),
        ({"model": "nobody"}, 400, 404),
        ({"messages": []}, 400, 400),
        ({"top_logprobs": 3}, 400, 400),
        ({"max_tokens": 5000}, 400, 400),  # beyond the context
    ],
)
def test_statuses_by_style(
    running: RunningServer, fields: dict[str, object], deepseek: int, openai: int
) -> None:
    answer = ask(running, "key-of-2026", **fields)
    assert answer.status_code == deepseek, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_request_error"
    assert ask(running, "key-of-openai", **fields).status_code == openai


def test_unknown_model_and_wrong_key_in_deepseeks_words(running: RunningServer) -> None:
    answer = ask(running, "key-of-2026", model="nobody")
    assert "Model Not Exist" in answer.json()["error"]["message"]
    answer = ask(running, "wrong-key-of-1234")
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert "Authentication Fails, Your api key: ****1234 is invalid" in error["message"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_request_error")


def test_the_name_of_anthropics_header_counts_on_its_paths_only(running: RunningServer) -> None:
    with client_of(running) as http:
        headers = {"x-api-key": "key-of-2026"}
        assert http.post(CHAT, json={}, headers=headers).status_code == 401
        nowhere = http.get("/anthropic/nowhere", headers=headers)
        assert nowhere.status_code == 404
        assert nowhere.json()["error"]["type"] == "not_found_error"
        error = http.get("/anthropic/nowhere").json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("key", ["key-of-2025", "key-of-2026"])
def test_sampling_has_no_effect_while_thinking_and_is_named(
    running: RunningServer, key: str
) -> None:
    running.engine.submitted.clear()
    answer = ask(running, key, model="thinker", temperature=0.1, top_p=0.2, presence_penalty=1)
    assert answer.headers["x-tribody-ignored"] == "temperature, top_p, presence_penalty"
    sampling = running.engine.submitted[-1].sampling
    expected = (0.6, 0.95) if key == "key-of-2025" else (1.0, 1.0)
    assert (sampling.temperature, sampling.top_p) == expected
    assert sampling.presence_penalty == 0
    answer = ask(running, "key-of-openai", model="thinker", temperature=0.1)
    assert "x-tribody-ignored" not in answer.headers
    assert running.engine.submitted[-1].sampling.temperature == pytest.approx(0.1)


def test_reasoning_that_comes_back(running: RunningServer) -> None:
    earlier = {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    messages = [*ASK, earlier, *ASK]
    refused = ask(running, "key-of-2025", model="thinker", messages=messages)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[1].reasoning_content"
    assert ask(running, "key-of-2026", model="thinker", messages=messages).status_code == 200


def test_reasoning_that_led_to_a_call_must_come_back(running: RunningServer) -> None:
    fields = {"tools": [TOOL], "messages": [*ASK, CALLED, RESULT], "model": "thinker"}
    refused = ask(running, "key-of-2026", **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == BACK
    for change in ({"model": "plain"}, {"tools": None}):
        assert ask(running, "key-of-2026", **(fields | change)).status_code == 200
    given = [*ASK, {**CALLED, "reasoning_content": "hm"}, RESULT]
    assert ask(running, "key-of-2026", **(fields | {"messages": given})).status_code == 200
    assert ask(running, "key-of-2025", **fields).status_code == 200


def test_what_a_reasoner_may_be_asked(running: RunningServer) -> None:
    fields = {"model": "thinker", "logprobs": True}
    assert ask(running, "key-of-2025", **fields).status_code == 400
    assert ask(running, "key-of-2026", **fields).status_code == 200
    forced = {"tools": [TOOL], "tool_choice": "required"}
    refused = ask(running, "key-of-2026", model="thinker", **forced)
    assert refused.json()["error"]["param"] == "tool_choice"


@pytest.mark.parametrize(
    ("key", "model", "most"),
    [("key-of-2025", "plain", 8192), ("key-of-2025", "thinker", 65_536)],
)
def test_most_tokens_by_profile(running: RunningServer, key: str, model: str, most: int) -> None:
    """Both are beyond this model's context: what is refused first tells which limit it was."""
    assert ask(running, key, model=model, max_tokens=most).status_code == 400
    assert ask(running, key, model=model, max_tokens=most + 1).status_code == 422


def test_a_key_may_have_one_request_at_a_time(running: RunningServer) -> None:
    running.engine.hold = Held(after=1)
    body = {"model": "thinker", "messages": ASK, "stream": True}
    try:
        with client_of(running) as http:
            http.headers["Authorization"] = "Bearer key-of-one"
            with http.stream("POST", CHAT, json=body) as first:
                assert running.engine.hold.reached.wait(10)
                second = ask(running, "key-of-one")
                assert second.status_code == 429
                assert int(second.headers["retry-after"]) > 0
                assert ask(running, "key-of-2026").status_code == 200  # another key is not held
                running.engine.hold.release()
                assert first.read().endswith(b"[DONE]\n\n")
    finally:
        running.engine.reset()
    assert ask(running, "key-of-one").status_code == 200


def test_a_stream_that_cannot_be_finished_ends_by_a_reason(running: RunningServer) -> None:
    """DeepSeek's clients know `insufficient_system_resource`; what was told counts as usage."""
    running.engine.die_after = 5
    try:
        text = ask(running, "key-of-2026", model="thinker", stream=True, n=2).text
        chunks = sse_payloads(text)
        assert text.endswith("data: [DONE]\n\n")
        reasons = [c["choices"][0]["finish_reason"] for c in chunks][-2:]
        assert reasons == ["insufficient_system_resource"] * 2
        assert chunks[-1]["usage"]["completion_tokens"] >= 5
        openai = ask(running, "key-of-openai", model="thinker", stream=True).text
        assert "[DONE]" not in openai
        assert "engine_failed" in openai
        assert ask(running, "key-of-2026", model="thinker").status_code == 503
    finally:
        running.engine.reset()


def test_blank_lines_while_a_plain_answer_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tribody.server.endpoint.HEARTBEAT_SECONDS", 0.05)
    keys = tmp_path / "keys"
    keys.write_text("patient-key plain_keep_alive=true\nnaive-key\n")
    server = run_server([scripted_model()], keys=KeyFile.read(keys))
    try:
        for key, patient in (("patient-key", True), ("naive-key", False)):
            server.engine.hold = held = Held(after=1)
            timer = threading.Timer(0.5, lambda held=held: held.release())
            timer.start()
            answer = ask(server, key, model="scripted")
            timer.join()
            assert answer.text.startswith("\n") is patient
            assert answer.json()["choices"][0]["finish_reason"] == "stop"
    finally:
        server.stop()


def test_options_of_a_text() -> None:
    made = with_options(ApiSettings(), "profile=2025 plain-keep-alive=true,max_concurrency=4")
    assert (made.profile, made.plain_keep_alive, made.max_concurrency) == ("2025", True, 4)
    for text in ("profile", "profile=2024", "nothing=1", "max_concurrency=-1"):
        with pytest.raises(ValueError, match=r".+"):
            with_options(ApiSettings(), text)
