"""The files of examples/ do what they say, against the scripted server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import LITELLM_PYTHON, ROOT, said_by

EXAMPLES = ROOT / "examples"
THOUGHT = "The last message has 7 characters."


def usage_line(prompt: int) -> str:
    """A token is a byte; the end of thinking and of the answer are one each."""
    answer = len(THOUGHT) + 1 + len("You said: 17 + 25") + 1
    return f"usage: {prompt} + {answer} = {prompt + answer}"


SHOWN = [
    f"thinking: {THOUGHT}",
    "answer: You said: 17 + 25",
    usage_line(54),
    'call: get_weather {"city":"Paris"}',
    "answer: The tools said: sunny in Paris",
]
LANGCHAIN = [line.replace('{"city":"Paris"}', "{'city': 'Paris'}") for line in SHOWN]


@pytest.mark.parametrize(
    ("program", "name", "shown"),
    [
        (Path(sys.executable), "openai_python.py", [*SHOWN, "json: ['celsius', 'city']"]),
        (Path(sys.executable), "langchain_chat.py", LANGCHAIN),
        (LITELLM_PYTHON, "litellm_deepseek.py", SHOWN),
        (
            Path("node"),
            "ai_sdk.mjs",
            ["@ai-sdk/deepseek", *SHOWN, "@ai-sdk/openai-compatible", *SHOWN],
        ),
    ],
)
def test_example(url: str, program: Path, name: str, shown: list[str]) -> None:
    assert said_by([program, EXAMPLES / name], url).splitlines() == shown


def test_curl(url: str) -> None:
    said = said_by(["sh", EXAMPLES / "curl.sh"], url)
    _nothing, chat, stream, tool, as_json, filled = (part for part in said.split("# "))
    message = answer_of(chat)["choices"][0]["message"]
    assert message["reasoning_content"] == THOUGHT
    assert message["content"] == "You said: 17 + 25"
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line[:5] == "data:"]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "You said: 17 + 25"
    assert chunks[-1]["usage"]["completion_tokens"] == len(text) + 1
    (call,) = answer_of(tool)["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    content = answer_of(as_json)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"answer": "Answer in json."}
    assert answer_of(filled)["choices"][0]["text"] == " filled in "


def answer_of(part: str) -> dict:
    return json.loads(part.partition("\n")[2])
