"""How long a guess takes says nothing about how much of it is right.

100,000 guesses share 0 characters to all but the last with a key.  Lengths of the shared prefix
alternate in a drawn order, a round of all of them after the other, so that whatever slows the
machine down for a while slows all alike; ranks within rounds are compared, so that single delays
weigh little; and how much correlation is chance follows from permutations within rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.tenancy.accounts import NOW_MS, SECRET, add_key, add_tenant
from tribody.core.api_settings import DEFAULT_API
from tribody.storage.database import Database
from tribody.tenancy import keys
from tribody.tenancy.directory import Denial, Directory

NUM_GUESSES = 100_000
NUM_PERMUTATIONS = 1_000
P_VALUE = 0.01
SERIES = 3  # chance alone finds a correlation in one of a hundred, in three of three never


def guesses(plain: bytes, rng: np.random.Generator) -> tuple[list[list[bytes]], np.ndarray]:
    """Rounds of guesses and the length of the prefix that each shares with the key."""
    first = len(keys.PREFIX)
    alphabet = np.frombuffer(keys.ALPHABET.encode(), np.uint8)
    lengths = np.arange(first, len(plain))
    rounds, shared = [], []
    for _ in range(-(-NUM_GUESSES // len(lengths))):
        order = rng.permutation(lengths)
        tails = rng.choice(alphabet, (len(order), len(plain)))
        made = []
        for length, tail in zip(order, tails, strict=True):
            guess = bytearray(plain[:length] + tail[length:].tobytes())
            while guess[length] == plain[length]:
                guess[length] = int(rng.choice(alphabet))
            made.append(bytes(guess))
        rounds.append(made)
        shared.append(order)
    return rounds, np.array(shared)


def durations(find: Callable[[bytes], object], rounds: list[list[bytes]]) -> np.ndarray:
    """Nanoseconds that each guess took."""
    clock = time.perf_counter_ns
    taken = np.empty((len(rounds), len(rounds[0])), np.int64)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for row, made in zip(taken, rounds, strict=True):
            for place, guess in enumerate(made):
                began = clock()
                find(guess)
                row[place] = clock() - began
    finally:
        if was_enabled:
            gc.enable()
    return taken


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Of each row, equal values with their middle rank, around 0."""
    low = np.array([np.searchsorted(np.sort(row), row, "left") for row in values])
    high = np.array([np.searchsorted(np.sort(row), row, "right") for row in values])
    return (low + high - values.shape[1]) / 2.0


def correlation(taken: np.ndarray, shared: np.ndarray, rng: np.random.Generator) -> float:
    """The probability that chance alone correlates the two at least as much."""
    slow, right = centred_ranks(taken), centred_ranks(shared)
    observed = abs(float((slow * right).sum()))
    chance = [
        abs(float((rng.permuted(slow, axis=1) * right).sum())) for _ in range(NUM_PERMUTATIONS)
    ]
    return (1 + sum(value >= observed for value in chance)) / (1 + NUM_PERMUTATIONS)


def p_values(find: Callable[[bytes], object], plain: bytes) -> list[float]:
    """Of series after series, until one shows no correlation."""
    found: list[float] = []
    for seed in range(SERIES):
        rng = np.random.default_rng(seed)
        rounds, shared = guesses(plain, rng)
        durations(find, rounds[:50])  # warm
        found.append(correlation(durations(find, rounds), shared, rng))
        if found[-1] > P_VALUE:
            break
    return found


@pytest.mark.slow
def test_time_says_nothing_about_a_key(db: Database) -> None:
    add_tenant(db)
    _, plain = add_key(db)
    directory = Directory.load(db, SECRET, DEFAULT_API)
    assert directory.find(plain, NOW_MS) is not Denial.UNKNOWN
    found = p_values(lambda guess: directory.find(guess, NOW_MS), plain)
    print(f"p = {found}")
    assert found[-1] > P_VALUE


@pytest.mark.slow
def test_a_comparison_that_leaks_is_seen() -> None:
    """The same measurement of a comparison that ends at the first difference, one step each."""
    plain = keys.new_key().encode()

    def leaky(guess: bytes) -> bool:
        return all(one == other for one, other in zip(guess, plain, strict=True))

    found = p_values(leaky, plain)
    print(f"p = {found}")
    assert found == [1 / (1 + NUM_PERMUTATIONS)] * SERIES
