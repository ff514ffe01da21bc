"""/metrics moves with what happens, and docs/metrics.md lists what is there."""

from __future__ import annotations

from pathlib import Path

import httpx2
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.server.bookkeeping import PRICES, Books, client
from tests.server.scripted import RunningServer, client_of, run_server, scripted_model

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "temperature": 0}


def samples(http: httpx2.Client) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their labels' names …) of every sample."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counts_and_histograms_move() -> None:
    model, engine = scripted_model()
    running = run_server([(model, engine)])
    with client_of(running) as http:
        http.post("/v1/chat/completions", json=BODY)
        http.post("/v1/chat/completions", json={**BODY, "max_tokens": 2, "n": 2})
        http.post("/v1/chat/completions", json={**BODY, "n": 0})
        http.get("/v1/models/x")
        http.get("/etc/passwd")
        engine.fail_after = 1
        http.post("/v1/chat/completions", json=BODY)
        engine.stats = msgspec.structs.replace(
            engine.stats,
            running=3,
            waiting=2,
            pages_used=7,
            cached_tokens=64,
            preemptions=1,
            drafted_tokens=9,
            accepted_tokens=5,
        )
        engine.restarts = 2
        found = samples(http)
    running.stop()
    name = "scripted"
    assert found["tribody_time_to_first_token_seconds_count", name] == 3
    assert found["tribody_e2e_request_latency_seconds_count", name] == 3
    assert found["tribody_inter_token_latency_seconds_count", name] > 10
    assert found["tribody_choices_finished_total", name, "stop"] == 1
    assert found["tribody_choices_finished_total", name, "length"] == 2
    assert found["tribody_choices_finished_total", name, "error"] == 1
    assert found["tribody_http_requests_total", "POST", "/v1/chat/completions", "200"] == 2
    assert found["tribody_http_requests_total", "POST", "/v1/chat/completions", "400"] == 1
    assert found["tribody_http_requests_total", "GET", "/v1/models/{id}", "404"] == 1
    assert found["tribody_http_requests_total", "GET", "other", "404"] == 1
    assert found["tribody_requests_running", name] == 3
    assert found["tribody_requests_waiting", name] == 2
    assert found["tribody_kv_pages_used", name] == 7
    assert found["tribody_kv_pages_total", name] == 16
    assert found["tribody_cached_prompt_tokens_total", name] == 64
    assert found["tribody_preemptions_total", name] == 1
    assert found["tribody_drafted_tokens_total", name] == 9
    assert found["tribody_accepted_tokens_total", name] == 5
    assert found["tribody_engine_restarts_total", name] == 2
    assert found["tribody_engine_ready", name] == 1
    assert ("tribody_time_to_first_token_seconds_bucket", "2560.0", name) in found


def test_the_page_lists_every_metric(http: httpx2.Client, running: RunningServer) -> None:
    http.post("/v1/chat/completions", json=BODY)
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    families = text_string_to_metric_families(http.get("/metrics").text)
    names = {family.name for family in families if not family.name.endswith("_created")}
    assert len(names) > 15
    missing = {name for name in names if f"`{name}" not in page}
    assert not missing


def test_the_books_are_told(tmp_path: Path) -> None:
    """Commits, settled tokens, what is held, and who was not let in."""
    books = Books(tmp_path)
    books.use(PRICES)
    books.add_tenant()
    key, chats = books.add_key(routes=frozenset({"metrics", "chat"})), books.add_key()
    old = books.add_key(expires_ms=books.now_ms() + 1)
    running, _engine = books.serve()
    with client(running, key) as http:
        usages = [http.post("/v1/chat/completions", json=BODY).json()["usage"] for _ in range(3)]
        for wrong in (
            "Bearer sk-nobody-has-this-key",
            f"Bearer {old}",
            "Basic x",
            f"Bearer {chats}",
        ):
            http.get("/metrics", headers={"Authorization": wrong})
        http.get("/v1/models")
        with client_of(running) as nobody:
            nobody.get("/v1/models")
        found = samples(http)
        books.db.run("UPDATE balances SET micro = micro - 5 WHERE account = 'cash'")
        assert samples(http)["tribody_ledger_imbalance", "CNY"] == -5
    running.stop()
    for kind, name in (
        ("prompt", "prompt_tokens"),
        ("cached_prompt", "prompt_cache_hit_tokens"),
        ("completion", "completion_tokens"),
    ):
        billed = found["tribody_billing_tokens_total", kind]
        assert billed == sum(usage[name] for usage in usages)
        assert billed > 0 or kind == "cached_prompt"
    assert found["tribody_ledger_commit_seconds_count",] >= 6
    assert found["tribody_ledger_unsettled_reservations",] == 0
    assert found["tribody_ledger_imbalance", "CNY"] == 0
    assert 0 <= found["tribody_accounts_age_seconds",] < 60
    failures = {n[1]: value for n, value in found.items() if n[0] == "tribody_auth_failures_total"}
    assert failures == dict.fromkeys(failures, 0) | {
        "missing": 1,
        "malformed": 1,
        "unknown": 1,
        "expired": 1,
        "scope": 2,
    }
