"""The whole suite against `tribody serve scripted`, in both profiles, as its users run it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.shipped import serving
from tribody.conformance.runner import Report, run_checks
from tribody.conformance.suite import SECTIONS
from tribody.conformance.target import Target
from tribody.conformance.wire import Client
from tribody.core.api_settings import ProfileName

KEYS: dict[ProfileName, str] = {"2025": "sk-of-the-year-2025", "2026": "sk-of-the-year-2026"}

# With aliases of one's own, those of a model that is served alone have to be named too.
NAMES = ("deepseek-chat", "deepseek-reasoner", "deepseek-flash", "deepseek-v4-pro")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("".join(f"{key} profile={name}\n" for name, key in KEYS.items()))
    aliases = [f"--alias={name}=scripted" for name in NAMES]
    folder = f"--data-dir={path.with_name('data')}"
    with serving("scripted", "--api-key-file", str(path), folder, *aliases) as address:
        yield address


def report(url: str, profile: ProfileName) -> Report:
    with Client(url, KEYS[profile]) as client:
        return run_checks(Target(client, profile), SECTIONS, lambda _outcome: None)


@pytest.mark.parametrize("profile", list(KEYS))
def test_nothing_fails(url: str, profile: ProfileName) -> None:
    found = report(url, profile)
    failed = {o.id: o.detail for o in found.checks if o.status == "failed"}
    assert failed == {}
    assert found.scripted
    assert found.passed >= 150
