"""kill -9 of the process that writes, at random moments, again and again on the same books."""

from __future__ import annotations

import os
import random
import threading

import pytest

from tests.faults.books import Answers, check_after, command, start

ROUNDS_PER_DATABASE = 25
SEED = 20_261_123


def kill(path, node_id: str, after_seconds: float) -> Answers:
    """What the driver was told before it was killed, so long after its first answer."""
    process = start(command(path, node_id, 100_000, 200))
    assert process.stdout is not None
    first = process.stdout.readline()
    timer = threading.Timer(after_seconds, process.kill)
    timer.start()
    rest = process.stdout.read()
    assert process.wait() == -9, process.stderr.read() if process.stderr else ""
    timer.join()
    text = first + rest
    return Answers.read(text[: text.rfind("\n") + 1])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_writer(tmp_path, rounds):
    """KILLS in the environment makes it as many rounds as that."""
    rounds = int(os.environ.get("KILLS", rounds))
    chance = random.Random(SEED)
    num_settled = num_reserved = 0
    for number in range(rounds):
        path = tmp_path / f"accounts-{number // ROUNDS_PER_DATABASE}.db"
        answers = kill(path, f"node-{number}", chance.uniform(0, 0.15))
        assert answers.refused == []
        check_after(path, answers, node_id=f"node-{number}")
        num_settled += len(answers.settled)
        num_reserved += len(answers.reserved)
    print(
        f"{rounds} kills, seed {SEED}: {num_reserved} reservations and {num_settled} charges were "
        "acknowledged and are there once"
    )
