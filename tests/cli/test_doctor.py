"""`tribody doctor`: outlooks from a given machine, findings from given metrics."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.server.scripted import run_server, scripted_model
from tribody.cli import doctor
from tribody.cli.http_client import NoServer
from tribody.cli.machine_report import MachineReport, known_models, outlooks
from tribody.cli.server_report import findings, look_at_server, read_metrics, report
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig
from tribody.engine.build import build
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.packed_checkpoint import write_checkpoint
from tribody.models.load import load_model
from tribody.models.packed import packed_items
from tribody.ops import native

MACHINE = MachineReport(
    cpu="Test CPU",
    isa="avx2",
    isa_levels=["portable", "avx2"],
    physical_cores=2,
    total_bytes=16 << 30,
    available_bytes=4 << 30,
    bandwidth_bytes_per_s=20e9,
)


def test_known_models_are_plausible() -> None:
    models = known_models().models
    assert [m.parameters for m in models] == sorted(m.parameters for m in models)
    for model in models:
        assert 0 < model.active <= model.parameters
        assert model.kv_values > 0
        assert model.source


def test_outlooks() -> None:
    by_name = {outlook.name: outlook for outlook in outlooks(MACHINE)}
    small = by_name["SmolLM2-135M-Instruct"]
    assert small.fits
    assert small.tokens_per_second == pytest.approx(20e9 / (134_515_008 * 34 / 32))
    middle = by_name["DeepSeek-R1-Distill-Qwen-7B"]
    assert not middle.fits
    assert middle.fits_when_empty
    large = by_name["DeepSeek-V3 / DeepSeek-R1"]
    assert not large.fits_when_empty
    moe = by_name["DeepSeek-V2-Lite-Chat"]
    dense = by_name["DeepSeek-R1-Distill-Qwen-14B"]
    assert moe.tokens_per_second > 5 * dense.tokens_per_second


def values(**given: float) -> dict[str, float]:
    return {f"tribody_{name}": value for name, value in given.items()}


def test_findings_say_what_and_how_to_mend_it() -> None:
    assert findings(values(engine_ready=1)) == []
    full = values(requests_waiting=4, kv_pages_used=95, kv_pages_total=100, engine_ready=1)
    assert "--kv-memory" in findings(full)[0]
    busy = values(requests_waiting=4, kv_pages_used=5, kv_pages_total=100, engine_ready=1)
    assert "more arrives than" in findings(busy)[0]
    tight = values(kv_pages_used=95, kv_pages_total=100, engine_ready=1)
    assert "95%" in findings(tight)[0]
    down = values(engine_ready=0, engine_restarts_total=3, preemptions_total=2)
    assert len(findings(down)) == 3
    cold = values(engine_ready=1, prompt_tokens_total=50_000, cached_prompt_tokens_total=100)
    assert "prefix cache" in findings(cold)[0]


def test_report_of_a_running_server() -> None:
    model, engine = scripted_model()
    running = run_server([(model, engine)])
    engine.stats = msgspec.structs.replace(
        engine.stats, running=2, pages_used=8, prompt_tokens=100, cached_tokens=25
    )
    found = look_at_server(running.url, None).models[0]
    running.stop()
    assert (found.model_name, found.running, found.kv_used) == ("scripted", 2, 0.5)
    assert found.cache_hit_rate == 0.25
    assert found.mean_first_token_seconds is None


def test_reading_ignores_what_is_not_ours() -> None:
    text = 'other{model_name="a"} 1\ntribody_x{model_name="a"} 2\ntribody_y{route="/"} 3\n'
    assert read_metrics(text) == {"a": {"tribody_x": 2.0}}
    assert report("a", {}).findings == []


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of this machine's user have no part in these tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tribody"


def test_command_prints_and_finds_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look_at_machine", lambda: MACHINE)
    monkeypatch.setattr(doctor, "DEFAULT_URL", "http://127.0.0.1:1")
    for name in ("TRIBODY_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    doctor.run([], None, as_json=False)
    shown = capsys.readouterr().out
    assert "Test CPU" in shown
    assert "no answer" in shown
    doctor.run([], None, as_json=True)
    printed = msgspec.json.decode(capsys.readouterr().out, type=doctor.Report)
    assert printed.machine == MACHINE
    assert printed.server is None
    with pytest.raises(NoServer):
        doctor.run([], "http://127.0.0.1:1", as_json=False)


def test_command_prints_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look_at_machine", lambda: MACHINE)
    model, engine = scripted_model()
    engine.stats = msgspec.structs.replace(engine.stats, drafted_tokens=200, accepted_tokens=150)
    running = run_server([(model, engine)])
    doctor.run([], running.url, as_json=False)
    running.stop()
    shown = capsys.readouterr().out
    assert "scripted: 0 running" in shown
    assert "200 tokens drafted, 75% of them right" in shown
    assert "nothing stands in its way" in shown


def test_packed_models_and_their_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    """Those that a start has kept, those that a user names, and what is no packed model."""
    monkeypatch.setattr(doctor, "look_at_machine", lambda: MACHINE)
    monkeypatch.setattr(doctor, "DEFAULT_URL", "http://127.0.0.1:1")
    config = EngineConfig(
        model_path=str(bundled.locate("mini-r1")),
        kv_budget_bytes=1 << 22,
        packed_dir=str(cache / "packed"),
    )
    info = build(config).info
    (kept,) = (cache / "packed").glob("*.tribody")
    own = tmp_path / "own.tribody"
    (tmp_path / "broken.tribody").write_bytes(b"nothing")
    checkpoint = open_checkpoint(kept)
    model = load_model(checkpoint, native.OPS, "w8g32", drafter=True)
    manifest = {"recovery": 0.9951, "verification": {"corpus": "prose", "kl_mean_nats": 0.0049}}
    write_checkpoint(own, checkpoint, packed_items(model.weights), manifest)
    doctor.run([own, tmp_path / "broken.tribody"], None, as_json=True)
    found = msgspec.json.decode(capsys.readouterr().out, type=doctor.Report).packed
    by_name = {Path(model.path).name: model for model in found}
    assert set(by_name) == {kept.name, "own.tribody", "broken.tribody"}
    assert info.precision is not None
    assert by_name[kept.name].precision == info.precision
    assert by_name["own.tribody"].precision == msgspec.structs.replace(
        info.precision, recovery=0.9951, kl_mean_nats=0.0049, verified_on="prose"
    )
    assert by_name["broken.tribody"].precision is None
    doctor.run([own, tmp_path / "broken.tribody"], None, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"mini-r1: {info.precision.bits_per_weight:.2f} bits a weight: w8g32 100%;" in shown
    assert "; recovery 99.51% on prose" in shown
    assert "! " in shown
    with pytest.raises(BadConfig, match="no such file"):
        doctor.run([tmp_path / "absent.tribody"], None, as_json=False)
