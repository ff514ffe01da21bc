"""`tribody generate` over the scripted engine: resuming, repairing, refusing."""

from __future__ import annotations

import fcntl
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.server.scripted import CHATML, THINKING, ScriptedEngine, scripted_model
from tribody.cli import generate, script
from tribody.cli.answers import FieldValue
from tribody.cli.engine_options import EngineOptions
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig, BadInput, EngineFailed
from tribody.server.serve import make_service
from tribody.server.service import Service
from tribody.server.types import ThinkingSwitch


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    return engine_with(monkeypatch, CHATML)


def engine_with(monkeypatch: pytest.MonkeyPatch, template: str) -> ScriptedEngine:
    """The engine that the command will run on, instead of a process of its own."""
    model, scripted = scripted_model(chat_template=template)

    @asynccontextmanager
    async def service(config: EngineConfig) -> AsyncIterator[Service]:
        yield make_service([model], {}, None)

    monkeypatch.setattr(generate, "local_service", service)
    monkeypatch.setattr(script, "fetch", lambda name, environment: Path("/m"))
    monkeypatch.setattr(generate, "require_native", lambda: None)
    for name in ("TRIBODY_MODEL", "TRIBODY_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return scripted


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [
        {"id": "raw", "prompt": "Say", "max_tokens": 5, "temperature": 0},
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0},
        {"id": 7, "prompt": "x", "seed": 4},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    return path


def run(source: Path, target: Path, **defaults: FieldValue) -> int:
    return generate.run(source, target, None, defaults, EngineOptions())


def answers(path: Path) -> dict[object, dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def test_answers_every_line(engine: ScriptedEngine, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert run(source, target, seed=9) == 0
    found = answers(target)
    assert set(found) == {"raw", 3, 7}
    assert found["raw"]["text"] == "Hello"
    assert found[3]["text"] == "Hello, world. 你好!"
    assert found[7]["text"] == "seed 4 choice 0."
    assert {request.sampling.seed for request in engine.submitted} == {9, 4}


def test_resumes_and_repairs_a_cut_line(
    engine: ScriptedEngine, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    run(source, target)
    whole = target.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in (first_line, first_line + 1, len(whole) - 1):
        target.write_bytes(whole[:cut])
        engine.submitted.clear()
        assert run(source, target) == 0
        assert set(answers(target)) == {"raw", 3, 7}
        assert len(engine.submitted) == 3 - whole[:cut].count(b"\n")
    engine.submitted.clear()
    assert run(source, target) == 0
    assert engine.submitted == []


def test_a_refused_line_gets_its_error(
    engine: ScriptedEngine, source: Path, tmp_path: Path
) -> None:
    source.write_text('{"id": 1, "prompt": "x", "n": 0}\n{"id": 2, "prompt": "x"}\n')
    target = tmp_path / "out.jsonl"
    assert run(source, target) == 1
    found = answers(target)
    assert found[1]["error"]["param"] == "n"  # type: ignore[index]
    assert "error" not in found[2]


def test_thinking_is_for_chats_that_do_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = engine_with(monkeypatch, THINKING)
    ask = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    lines = [
        ask,
        {**ask, "thinking": {"type": "enabled"}},
        {**ask, "chat_template_kwargs": {"thinking": True}},
        {"prompt": "Say", "temperature": 0},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps(line) for line in lines))
    assert run(source, tmp_path / "out.jsonl", thinking=ThinkingSwitch("disabled")) == 0
    ends = [
        engine.tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)
        for request in engine.submitted
    ]
    assert sum(end.endswith("</think>\n\n") for end in ends) == 1
    assert sum(end.endswith("<think>\n") for end in ends) == 2


def test_a_switch_that_the_model_lacks_is_an_error(
    engine: ScriptedEngine, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    assert run(source, target, thinking=ThinkingSwitch("enabled")) == 1
    found = answers(target)
    assert found[3]["error"]["param"] == "thinking"  # type: ignore[index]
    assert "error" not in found["raw"]


def test_an_engine_failure_keeps_what_is_done(
    engine: ScriptedEngine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.die_after = 7  # longer answers than "raw" die
    monkeypatch.setattr(generate, "WAITING_PER_SLOT", 1)  # one after the other, "raw" first
    target = tmp_path / "out.jsonl"
    with pytest.raises(EngineFailed):
        generate.run(source, target, None, {}, EngineOptions(max_running=1))
    assert set(answers(target)) == {"raw"}


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"id": 1}', '{"id": [], "prompt": "x"}', '{"prompt": "x", "messages": []}'],
)
def test_bad_input_lines_are_named(
    engine: ScriptedEngine, source: Path, tmp_path: Path, line: str
) -> None:
    source.write_text('{"prompt": "x"}\n' + line + "\n")
    with pytest.raises(BadInput, match="line 2"):
        run(source, tmp_path / "out.jsonl")
    assert engine.submitted == []


def test_files_that_cannot_be_used(engine: ScriptedEngine, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(BadConfig, match="cannot be read"):
        run(tmp_path / "none", target)
    source.write_text('{"id": 1, "prompt": "x"}\n{"id": 1, "prompt": "y"}\n')
    with pytest.raises(BadInput, match="comes twice"):
        run(source, target)
    target.write_text('{"something": "else"}\n')
    with pytest.raises(BadInput, match="line 1 is not an answer"):
        run(source, target)
    assert target.read_text() == '{"something": "else"}\n'


def test_two_runs_on_one_output(engine: ScriptedEngine, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with target.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadConfig, match="another run"):
            run(source, target)
