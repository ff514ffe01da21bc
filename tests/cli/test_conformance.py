"""`tribody conformance`: what it prints, and its exit codes, against a small server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.mock_server import JSON, KEY, Faults, Mock, Wrong, serving
from tribody.cli import conformance_report
from tribody.cli.conformance_report import ConformanceOptions, run
from tribody.conformance.suite import chosen
from tribody.core.errors import BadConfig


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Mock, str]]:
    mock = Mock()
    with serving(mock) as url:
        yield mock, url


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRIBODY_API_KEY", "OPENAI_API_KEY", "TRIBODY_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "key"
    path.write_text(f"# ours\n\n{KEY}  profile=2025\n")
    return path


def options(url: str | None, key_file: Path | None, **more: object) -> ConformanceOptions:
    fields: dict[str, object] = {
        "model": None, "profile": "2026", "sections": ["plain"], "only_list": False,
        "as_json": False,
    }  # fmt: skip
    return ConformanceOptions(url, key_file, **(fields | more))  # type: ignore[arg-type]


def test_json(served: tuple[Mock, str], key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served[0].faults = Faults(plain=lambda answer: answer | {"id": "chatcmpl-1"})
    assert run(options(served[1], key_file, as_json=True)) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report)[:3] == ["passed", "failed", "skipped"]
    counts = [c["status"] for c in report["checks"]]
    assert report["passed"] == counts.count("passed") > 10
    assert report["failed"] == counts.count("failed")
    assert report["model"] == "mock"
    failed = {c["id"]: c["detail"] for c in report["checks"] if c["status"] == "failed"}
    assert failed["plain.id"].startswith("expected id to be a bare UUID")
    assert failed["plain.id"].endswith("got chatcmpl-1")


def test_table(
    served: tuple[Mock, str], key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served[0].faults = Faults(plain=lambda answer: answer | {"object": "chat"})
    assert run(options(served[1], key_file)) == 1
    out = capsys.readouterr().out
    assert "Plain answers" in out
    assert "  plain.object: object is chat.completion\n      expected object to be" in out
    assert KEY not in out


def test_exit_code_is_0_where_nothing_failed(
    served: tuple[Mock, str], key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served[0].faults = Faults()
    (section,) = chosen(["plain"])
    few = type(section)(section.name, section.title, section.checks[:5])
    monkeypatch.setattr(conformance_report, "chosen", lambda _names: (few,))
    assert run(options(served[1], key_file)) == 0


def test_list(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options(None, key_file, only_list=True, sections=["thinking"])) == 0
    listed = capsys.readouterr().out
    assert "thinking.default" in listed
    assert "thinking.input" not in listed  # of the other profile
    assert run(options(None, key_file, only_list=True, profile="2025", sections=["thinking"])) == 0
    assert "thinking.input" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"profile": "2024"}, "--profile '2024'"),
        ({"sections": ["nothing"]}, "--section 'nothing'"),
        ({"url": None}, "name the server"),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"key_file": Path("/nowhere")}, "--key-file /nowhere: cannot be read"),
    ],
)
def test_what_cannot_be_run(key_file: Path, change: dict[str, object], words: str) -> None:
    fields = {"url": "http://127.0.0.1:9", "key_file": key_file, **change}
    with pytest.raises(BadConfig, match=words):
        run(options(**fields))  # type: ignore[arg-type]


def test_an_empty_key_file(tmp_path: Path, key_file: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    with pytest.raises(BadConfig, match="holds no key"):
        run(options("http://127.0.0.1:9", empty))


def test_the_key_may_come_from_the_environment(
    served: tuple[Mock, str], key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadConfig, match="refuses this key"):
        run(options(served[1], None))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run(options(served[1], None, sections=["catalogue"]))


def test_a_server_that_is_none_is_reported(key_file: Path) -> None:
    with serving(Wrong(200, JSON, b"[]")) as url:
        assert run(options(url, key_file, model="m")) == 1
