"""The suite itself: its list, what it counts, what it says, and that every check can fail."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.conformance.mock_model import Said
from tests.conformance.mock_server import JSON, KEY, SSE, Mock, Wrong, plain, serving
from tribody.conformance import wire
from tribody.conformance.check import BOTH, Check, Section
from tribody.conformance.checks import batches, cache
from tribody.conformance.prompts import Prompts
from tribody.conformance.runner import Outcome, run_check, run_checks
from tribody.conformance.suite import SECTIONS, chosen
from tribody.conformance.target import PATHS, Target
from tribody.conformance.verdict import Failed, Skipped, expect, shown
from tribody.conformance.wire import Client, EventStream, raw_status
from tribody.core.errors import BadConfig

ALL = [(section, check) for section in SECTIONS for check in section.checks]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Mock()) as address:
        yield address


def test_ids_are_unique_and_begin_with_their_section() -> None:
    ids = [check.id for _, check in ALL]
    assert len(set(ids)) == len(ids)
    assert [c.id for s, c in ALL if not re.fullmatch(rf"{s.name}\.[a-z0-9.-]+", c.id)] == []


@pytest.mark.parametrize("profile", ["2025", "2026"])
def test_there_are_enough_checks(profile: str) -> None:
    assert sum(profile in check.profiles for _, check in ALL) >= 150


def test_sections_are_chosen_by_name() -> None:
    assert [section.name for section in chosen(["tools", "plain"])] == ["plain", "tools"]
    assert chosen([]) == SECTIONS
    with pytest.raises(BadConfig, match="'tool' is not known"):
        chosen(["tool"])


# --- every check can fail --------------------------------------------------------------------

WRONG_SERVERS = {
    "nothing but errors": Wrong(500, JSON, b'{"error": "Traceback (most recent call last)"}'),
    "yes to everything": Wrong(200, JSON, b"{}"),
    "an answer to everything": Wrong(200, JSON, json.dumps(plain(Said())).encode()),
    "text for JSON": Wrong(200, "text/plain", b"Hello."),
    "a stream of nothing": Wrong(200, SSE, b'data: {"type": "x", "choices": [{"delta": {}}]}\n\n'),
    "no to everything": Wrong(404, JSON, b'{"error": {"message": "x", "type": "x"}}'),
    "a long error": Wrong(
        400, JSON, json.dumps({"error": {"message": "/usr/lib/x.py" * 999, "type": "x"}}).encode()
    ),
    "please wait": Wrong(429, JSON, b'{"error": {"message": "x"}}'),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(wire, "RAW_SECONDS", 0.3)
    monkeypatch.setattr(batches, "PATIENCE_SECONDS", 0.5)


def wrong_target(client: Client) -> Target:
    """A target whose probes all found what they looked for, so that no check is skipped."""
    target = Target.__new__(Target)
    target.client, target.profile, target.listed = client, "2026", ["mock"]
    target.model, target.reasoner, target.chat_path = "mock", "mock", PATHS["chat"][0]
    target.prompts = Prompts(scripted=True)
    found = {f"path {surface}": paths[0] for surface, paths in PATHS.items()}
    target.kept = {**found, "openapi": 200, "key": None}
    target.kept |= {f"need {need}": None for need in ("thinking", "tools", "json")}
    return target


@pytest.mark.usefixtures("impatient")
def test_every_check_can_fail() -> None:
    """Each fails on at least one of a few servers that get everything wrong."""
    left = {check.id: check for _, check in ALL}
    for app in WRONG_SERVERS.values():
        with serving(app) as address, Client(address, KEY) as client:
            target = wrong_target(client)
            for check in list(left.values()):
                if run_check(target, "any", check).status == "failed":
                    del left[check.id]
    assert sorted(left) == ["hygiene.keep-alive"]  # the next test


class Vanishing(socketserver.StreamRequestHandler):
    """Answers once as if the connection stayed, and closes it."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}")


def test_a_connection_that_vanishes_is_noticed() -> None:
    check = next(check for _, check in ALL if check.id == "hygiene.keep-alive")
    with socketserver.TCPServer(("127.0.0.1", 0), Vanishing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_address[1]}", KEY) as client:
            assert run_check(wrong_target(client), "any", check).status == "failed"
        server.shutdown()


# --- the runner ------------------------------------------------------------------------------


def verdicts(target: Target) -> dict[str, Outcome]:
    def fails(t: Target) -> None:
        raise Failed(f"expected nothing; got {t.client.key}")

    def skips(_: Target) -> None:
        raise Skipped("no reason")

    def stumbles(_: Target) -> None:
        "".index("x")

    def passes(_: Target) -> None: ...

    checks = (
        Check("x.pass", "", passes),
        Check("x.fail", "", fails),
        Check("x.skip", "", skips),
        Check("x.stumble", "", stumbles),
        Check("x.need", "", passes, ("embeddings",)),
        Check("x.old", "", passes, (), ("2025",)),
    )
    heard: list[Outcome] = []
    report = run_checks(target, [Section("x", "X", checks)], heard.append)
    assert (report.passed, report.failed, report.skipped) == (1, 2, 2)
    assert report.checks == heard
    return {outcome.id: outcome for outcome in heard}


def test_the_runner_counts_and_keeps_the_key_to_itself(url: str) -> None:
    with Client(url, KEY) as client:
        found = verdicts(Target(client, "2026"))
    assert found["x.fail"].detail == "expected nothing; got <key>"
    assert found["x.skip"].detail == "no reason"
    assert found["x.need"].detail == "there is no /v1/embeddings"
    assert "ValueError" in found["x.stumble"].detail
    assert "x.old" not in found


def test_a_target_finds_its_model_and_its_kind(url: str) -> None:
    with Client(url + "/v1/", KEY) as client:
        target = Target(client, "2026")
        assert (target.model, target.scripted, target.chat_path) == (
            "mock", True, "/chat/completions",
        )  # fmt: skip
        assert Target(client, "2026", "other").scripted is False


@pytest.mark.parametrize(("key", "words"), [(None, "refuses this key"), ("bad", "--key-file")])
def test_a_refused_key_cannot_run(url: str, key: str | None, words: str) -> None:
    with Client(url, key) as client, pytest.raises(BadConfig, match=words):
        Target(client, "2026")


def test_nobody_there_cannot_run() -> None:
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(BadConfig, match="cannot be reached"),
    ):
        Target(client, "2026")
    with pytest.raises(BadConfig, match="not an address"):
        Client("localhost")


def test_a_server_without_models_wants_a_name() -> None:
    with serving(Wrong(200, JSON, b"{}")) as address, Client(address) as client:
        with pytest.raises(BadConfig, match="--model"):
            Target(client, "2026")
        assert Target(client, "2026", "m").model == "m"


def test_a_real_model_may_disobey(url: str) -> None:
    with Client(url, KEY) as client:
        target = Target(client, "2026")
        with pytest.raises(Failed):
            target.obeyed(False, "obedience", "none")
        target.prompts = Prompts(scripted=False)
        with pytest.raises(Skipped):
            target.obeyed(False, "obedience", "none")


def test_sentences_are_bounded() -> None:
    with pytest.raises(Failed) as caught:
        expect(False, "little", "x" * 10_000)
    assert len(str(caught.value)) < 300
    assert shown("a\nb") == "a\\nb"


def test_event_streams_are_taken_apart() -> None:
    stream = EventStream.read(
        b": hi\n\nevent: a\ndata: 1\n\ndata: 2\r\n\r\ndata: [DONE]\n\ndata: 3"
    )
    assert [(event.name, event.data) for event in stream.events] == [
        ("a", "1"), ("", "2"), ("", "[DONE]"),
    ]  # fmt: skip
    assert stream.comments == ["hi"]
    assert [payload.raw for payload in stream.payloads] == [1, 2]
    assert stream.unfinished == "data: 3"


@pytest.mark.parametrize(
    ("received", "status"),
    [(b"HTTP/1.1 431 x\r\n\r\n", 431), (b"", 0), (b"junk", 0), (b"HTTP/1.1 x\r\n", 0)],
)
def test_raw_statuses(received: bytes, status: int) -> None:
    assert raw_status(received) == status


def test_profiles_are_known() -> None:
    assert {profile for _, check in ALL for profile in check.profiles} == set(BOTH)
