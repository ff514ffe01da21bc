"""kill -9 under load: no acknowledged answer is lost, none is recorded twice, all sums hold."""

from __future__ import annotations

import random

import pytest

from tests.server.killing import run


@pytest.mark.parametrize(
    "num_kills", [10, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_kill(tmp_path, num_kills):
    seed = random.randrange(10**6)
    outcome = run(tmp_path / "data", num_kills, seed)
    print(f"seed {seed}: {outcome.text()}")
    assert outcome.problems == []
    assert len(outcome.acknowledged) > 3 * num_kills
