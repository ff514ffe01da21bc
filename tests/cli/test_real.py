"""`chat` and `generate` with SmolLM2 loaded by the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tribody.cli import chat, generate
from tribody.cli.engine_options import EngineOptions

pytestmark = pytest.mark.weights

ENGINE = EngineOptions(kv_memory="64MiB", max_context="1024")


def test_chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIBODY_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    options = chat.ChatOptions(
        model="smollm2",
        message="What is the capital of France?",
        system=None,
        temperature=0,
        max_tokens=16,
        seed=None,
        thinking=None,
        url=None,
    )
    chat.run(options, ENGINE)
    assert len(capsys.readouterr().out.strip()) > 5


def test_generate(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": i, "prompt": f"{i} + 1 =", "max_tokens": 4} for i in range(20)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert generate.run(source, target, "smollm2", {"temperature": 0}, ENGINE) == 0
    answers = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert {answer["id"] for answer in answers} == set(range(20))
    assert all(answer["response"]["usage"]["completion_tokens"] <= 4 for answer in answers)
