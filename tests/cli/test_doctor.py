"""`tribody doctor`: outlooks from a given machine, findings from given metrics."""

from __future__ import annotations

import msgspec
import pytest

from tests.server.scripted import run_server, scripted_model
from tribody.cli import doctor
from tribody.cli.http_client import NoServer
from tribody.cli.machine_report import MachineReport, known_models, outlooks
from tribody.cli.server_report import findings, look_at_server, read_metrics, report

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


def test_command_prints_and_finds_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look_at_machine", lambda: MACHINE)
    monkeypatch.setattr(doctor, "DEFAULT_URL", "http://127.0.0.1:1")
    for name in ("TRIBODY_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    doctor.run(None, as_json=False)
    shown = capsys.readouterr().out
    assert "Test CPU" in shown
    assert "no answer" in shown
    doctor.run(None, as_json=True)
    printed = msgspec.json.decode(capsys.readouterr().out, type=doctor.Report)
    assert printed.machine == MACHINE
    assert printed.server is None
    with pytest.raises(NoServer):
        doctor.run("http://127.0.0.1:1", as_json=False)


def test_command_prints_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look_at_machine", lambda: MACHINE)
    model, engine = scripted_model()
    engine.stats = msgspec.structs.replace(engine.stats, drafted_tokens=200, accepted_tokens=150)
    running = run_server([(model, engine)])
    doctor.run(running.url, as_json=False)
    running.stop()
    shown = capsys.readouterr().out
    assert "scripted: 0 running" in shown
    assert "200 tokens drafted, 75% of them right" in shown
    assert "nothing stands in its way" in shown
