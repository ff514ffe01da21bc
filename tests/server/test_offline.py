"""The default model as a user meets it: `tribody serve` with the network cut, asked over HTTP.

Every Python process of the server has a hook that refuses connections and name look-ups beyond
this machine; the cache of fetched models is empty.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

NO_NETWORK = """\
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(address, tuple) or event != "socket.connect":  # not a Unix socket
            if host not in (None, "", "127.0.0.1", "::1", "localhost"):
                raise OSError(f"the network is cut: {host}")

sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which no Python process reaches the network."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def test_the_network_is_cut(cut_off: dict[str, str]) -> None:
    """Otherwise the other tests would show nothing."""
    for call in ("create_connection(('192.0.2.1', 80))", "getaddrinfo('example.com', 80)"):
        program = f"import socket; socket.{call}"
        done = subprocess.run(
            [sys.executable, "-c", program], env=cut_off, capture_output=True, text=True
        )
        assert "the network is cut" in done.stderr


@pytest.fixture(scope="module")
def client(cut_off: dict[str, str]) -> Iterator[openai.OpenAI]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tribody.cli.main", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=cut_off,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "curl" in line:
            break
    found = re.search(r"ready at (http://\S+)/v1", said)
    assert found, said
    assert "mini-r1, deepseek-chat, deepseek-flash, deepseek-reasoner, " in said
    http = httpx2.Client(verify=False, timeout=60.0)
    yield openai.OpenAI(
        base_url=f"{found[1]}/v1", api_key="unused", max_retries=0, http_client=http
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    kept = Path(cut_off["XDG_CACHE_HOME"]) / "tribody"
    assert {path.name for path in kept.iterdir()} == {"packed", "data"}  # nothing was fetched


def ask(client: openai.OpenAI, model: str, **fields: object) -> ChatCompletionMessage:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "17 + 25"}],
        temperature=0,
        max_tokens=512,
        extra_body=fields,
    )
    assert answer.model == "mini-r1"
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message


def reasoning(message: ChatCompletionMessage) -> object:
    return (message.model_extra or {}).get("reasoning_content")


def test_the_reasoner_thinks_and_is_right(client: openai.OpenAI) -> None:
    for name in ("deepseek-reasoner", "mini-r1"):
        message = ask(client, name)
        assert reasoning(message)
        assert "42" in (message.content or "")


def test_the_chat_name_does_not_think(client: openai.OpenAI) -> None:
    message = ask(client, "deepseek-chat")
    assert "reasoning_content" not in (message.model_extra or {})
    assert message.content
    assert "think>" not in message.content


def test_the_request_overrides_the_name(client: openai.OpenAI) -> None:
    assert reasoning(ask(client, "deepseek-chat", thinking={"type": "enabled"}))
    message = ask(client, "deepseek-reasoner", thinking={"type": "disabled"})
    assert reasoning(message) is None


def test_the_names_are_listed(client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["mini-r1", "deepseek-reasoner", "deepseek-chat"]
