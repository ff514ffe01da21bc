"""`tribody bench quality` from end to end, on a tiny model, a tiny held-out file and a text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.model_folder import write_model_folder
from tests.quality.items import line, sample, write_lines
from tribody.cli import bench
from tribody.cli.main import main
from tribody.loading.download import sha256_of

Quality = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quality(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Quality:
    """Run the command in this process: exit code, output, errors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("TRIBODY_MODEL", "TRIBODY_LOG_LEVEL", "TRIBODY_THREADS", "TRIBODY_KV_MEMORY"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tribody", "bench", "quality", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and so on. " * 20)
    return path


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "h.jsonl.gz", *map(line, sample()))


SMALL = ("--threads", "1", "--kv-memory", "4MiB", "--max-tokens", "4", "--context", "128")


def test_the_whole_report(
    quality: Quality, tiny_folder: Path, text: Path, held_out: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    files = ("--text", text, "--held-out", held_out, "--out", out)
    formats = ("--format", "float32", "--format", "w8g32")
    code, shown, errors = quality(tiny_folder, *files, *formats, *SMALL, "--json")
    assert (code, errors.strip()) == (0, "")
    report: dict[str, Any] = json.loads(shown)
    assert json.loads(out.read_text()) == report
    assert report["held_out"] == {
        "path": str(held_out),
        "sha256": sha256_of(held_out),
        "num_items": 12,
        "num_asked": 12,
        "skipped": None,
    }
    corpora = {corpus["name"]: corpus for corpus in report["corpora"]}
    assert list(corpora) == ["text", "tasks"]
    assert corpora["text"]["sha256"] == sha256_of(text)
    assert corpora["text"]["num_chunks"] == 9
    same, coarser = report["formats"]
    assert (same["name"], coarser["name"]) == ("float32", "w8g32")
    assert coarser["kv_format"] == "float16"
    for distance in same["distribution"]:
        assert distance["perplexity_ratio"] == 1.0
        assert distance["kl_max_nats"] == 0.0
    for distance, noise in zip(coarser["distribution"], report["noise_floor"], strict=True):
        assert distance["corpus"] == noise["corpus"]
        assert distance["kl_mean_nats"] > 1000 * noise["kl_mean_nats"] > 0
    assert report["reference"]["scores"] == same["scores"]
    assert [flip["correct_to_wrong"] + flip["wrong_to_correct"] for flip in same["flips"]] == [0, 0]
    assert [row["num_items"] for row in same["scores"]] == [3, 3, 6, 3, 3, 6]


def test_the_table(quality: Quality, tiny_folder: Path, text: Path, held_out: Path) -> None:
    files = ("--text", text, "--held-out", held_out)
    code, shown, _errors = quality(tiny_folder, *files, *SMALL, "--items", "4", "--tokens", "400")
    assert code == 0
    assert "4 of 12 items" in shown
    for words in ("Exact match", "Changed answers", "Distributions on text", "noise floor"):
        assert words in shown
    assert "…" not in shown, "a column is too narrow"


def test_parts_can_be_left_out(quality: Quality, tiny_folder: Path, held_out: Path) -> None:
    code, shown, _errors = quality(
        tiny_folder, "--held-out", held_out, *SMALL, "--tokens", "0", "--json"
    )
    report = json.loads(shown)
    assert code == 0
    assert (report["corpora"], report["noise_floor"]) == ([], [])
    assert report["formats"][0]["scores"]
    code, shown, _errors = quality(tiny_folder, *SMALL, "--tokens", "0", "--items", "0", "--json")
    assert code == 0
    assert json.loads(shown)["held_out"] is None


def test_a_model_that_cannot_chat_says_so(
    quality: Quality, text: Path, held_out: Path, tmp_path: Path
) -> None:
    base = write_model_folder(tmp_path / "base", "llama")  # a family without a built-in template
    (base / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    files = ("--text", text, "--held-out", held_out)
    code, shown, _errors = quality(base, *files, *SMALL)
    assert code == 0
    assert "not asked: the model has no chat template" in shown
    assert "Distributions on text" in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "int4"], 2, "int4"),
        (["--format", "w8g32", "--format", "w8g32/float16"], 2, "once"),
        (["--items", "-1"], 2, "--items"),
        (["--held-out", "/nowhere.gz"], 2, "/nowhere.gz"),
        (["--text", "/nowhere.txt"], 2, "/nowhere.txt"),
        (["--out", "/nowhere/report.json"], 2, "/nowhere/report.json"),
        (["--context", "999999"], 2, "999999"),
    ],
)
def test_wrong_usage(
    quality: Quality, tiny_folder: Path, text: Path, words: list[str], code: int, message: str
) -> None:
    options = words if "--text" in words else [*words, "--text", str(text)]
    ended, _shown, errors = quality(tiny_folder, *SMALL[:-2], *options)
    assert ended == code
    assert message in errors
    assert "Traceback" not in errors


def test_a_build_without_items(
    monkeypatch: pytest.MonkeyPatch, quality: Quality, tiny_folder: Path, text: Path
) -> None:
    """The default goes on and says so; a number that was asked for is an error."""
    monkeypatch.setattr(bench, "bundled_file", lambda: None)
    code, shown, _errors = quality(tiny_folder, "--text", text, *SMALL)
    assert code == 0
    assert "no held-out items" in shown
    code, _shown, errors = quality(tiny_folder, "--text", text, *SMALL, "--items", "3")
    assert code == 2
    assert "--held-out" in errors


def test_a_malformed_item_is_named_before_the_model_is_loaded(
    quality: Quality, tiny_folder: Path, text: Path, tmp_path: Path
) -> None:
    bad = write_lines(tmp_path / "bad.jsonl.gz", line(sample()[0]), '{"task": "add"}')
    code, _shown, errors = quality(tiny_folder, "--held-out", bad, "--text", text)
    assert code == 2
    assert "line 2" in errors
