"""POST /v1/embeddings over real HTTP: against the scripted engine, and one that computes."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import httpx2
import openai
import pytest

from tests.server.scripted import Held, RunningServer, openai_client
from tests.server.shipped import serving
from tribody.core.errors import EngineFailed, Overloaded
from tribody.server import limits


def embed(http: httpx2.Client, **fields: object) -> httpx2.Response:
    return http.post("/v1/embeddings", json={"model": "scripted", "input": "Say", **fields})


def error_of(answer: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_forms_of_the_input(http: httpx2.Client, running: RunningServer) -> None:
    ids = running.engine.tokenizer.encode("Say", add_special_tokens=False)
    for given, count in (("Say", 1), (["Say", "Say"], 2), (ids, 1), ([ids, ids, ids], 3)):
        running.engine.submitted.clear()
        answer = embed(http, input=given).json()
        assert answer["object"] == "list"
        assert answer["model"] == "scripted"
        assert [item["index"] for item in answer["data"]] == list(range(count))
        assert [item["embedding"] for item in answer["data"]] == [[1, 2, 3, 3]] * count
        tokens = count * len(ids)
        assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        for request in running.engine.submitted:
            assert request.prompt_token_ids == ids
            assert (request.pooling, request.sampling.max_tokens) == ("mean", 0)
    assert http.post("/embeddings", json={"model": "scripted", "input": "x"}).status_code == 200


def test_base64_is_the_same_numbers(http: httpx2.Client, running: RunningServer) -> None:
    """openai-python asks for base64 unless it is told otherwise, and decodes it."""
    coded = embed(http, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<4f", base64.b64decode(coded)) == (1, 2, 3, 3)
    client = openai_client(running)
    for more in ({}, {"encoding_format": "float"}, {"dimensions": 4, "user": "me"}):
        answer = client.embeddings.create(model="scripted", input=["a", "bc"], **more)
        assert [item.embedding for item in answer.data] == [[1, 2, 3, 1], [1, 2, 3, 2]]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [10**6]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "x" * 1025}, "input"),
        ({"input": [1] * 1025}, "input"),
        ({"input": ["x"] * (limits.MAX_INPUTS + 1)}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": "é" * (limits.MAX_USER_CHARACTERS + 1)}, "user"),
    ],
)
def test_what_cannot_be_embedded(http: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    error = error_of(embed(http, **fields))
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_the_longest_input_and_the_most_inputs(http: httpx2.Client) -> None:
    assert embed(http, input=[1] * 1024).status_code == 200
    error = error_of(embed(http, input=[1] * 1025))
    assert error["code"] == "context_length_exceeded"
    assert "1024" in error["message"]
    assert "1025" in error["message"]
    answer = embed(http, input=["x"] * limits.MAX_INPUTS)
    assert len(answer.json()["data"]) == limits.MAX_INPUTS


def test_unknown_names(http: httpx2.Client) -> None:
    answer = embed(http, truncate="END", user="me")
    assert answer.headers["x-tribody-ignored"] == "truncate, user"
    assert error_of(embed(http, model="gpt-9"), 404)["code"] == "model_not_found"


def test_failures(http: httpx2.Client, running: RunningServer) -> None:
    running.engine.fail_after = 0
    error = error_of(embed(http, input=["a", "b"]), 500)
    assert error["message"] == "This answer could not be computed."
    running.engine.reset()
    for problem in (Overloaded("full"), EngineFailed("secret")):
        running.engine.refuse = problem
        assert "secret" not in str(error_of(embed(http), 503))


def test_a_client_that_leaves_aborts_its_inputs(
    http: httpx2.Client, running: RunningServer
) -> None:
    running.engine.hold = Held(after=0)
    with pytest.raises(httpx2.TimeoutException):
        http.post("/v1/embeddings", json={"model": "scripted", "input": ["a", "b"]}, timeout=0.3)
    assert running.engine.abort_seen.wait(5)


def test_inputs_that_never_begin(
    http: httpx2.Client, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "START_SECONDS", 0.0)
    monkeypatch.setattr("tribody.server.embeddings.HEARTBEAT_SECONDS", 0.02)
    running.engine.hold = Held(after=0)
    error = error_of(embed(http, input=["a", "b"]), 503)
    assert error["message"].startswith("This request has waited for 0 s")
    assert running.engine.abort_seen.wait(5)
    running.engine.reset()
    assert embed(http, input=["a", "b"]).status_code == 200


def test_the_shipped_scripted_engine() -> None:
    """Through the engine process: vectors of length 1 that depend on the text alone."""
    with serving() as url, httpx2.Client(verify=False, timeout=60.0) as http:
        client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="unused", max_retries=0, http_client=http
        )
        texts = ["red", "green", "red", "x" * 3000]
        answer = client.embeddings.create(model="scripted", input=texts)
        red, green, again, _ = (item.embedding for item in answer.data)
        assert red == again
        assert red != green
        for item in answer.data:
            assert math.isclose(sum(x * x for x in item.embedding), 1, abs_tol=1e-6)
        alone = client.embeddings.create(model="scripted", input="green")
        assert alone.data[0].embedding == green
        assert answer.usage.prompt_tokens == sum(map(len, texts))
