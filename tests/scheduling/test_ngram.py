"""Prompt look-up against a search of the whole text."""

from __future__ import annotations

import random

import pytest

from tribody.scheduling.ngram import LINKS, LONGEST_MATCH, NgramIndex


def naive(tokens: list[int], count: int) -> tuple[int, list[int]]:
    """The longest earlier match among the newest LINKS occurrences of the last pair."""
    best, best_end = 0, -1
    end = len(tokens) - 1
    ends = [e for e in range(end - 1, 0, -1) if tokens[e - 1 : e + 1] == tokens[end - 1 :]]
    for match in ends[:LINKS]:
        length = 2
        while (
            length < LONGEST_MATCH
            and match - length >= 0
            and tokens[match - length] == tokens[end - length]
        ):
            length += 1
        if length > best:
            best, best_end = length, match
    if not best:
        return 0, []
    repeated = list(tokens)
    while len(repeated) < best_end + 1 + count:  # the text repeats itself behind its end
        repeated.append(repeated[len(repeated) - (end - best_end)])
    return best, repeated[best_end + 1 : best_end + 1 + count]


@pytest.mark.parametrize("alphabet", [2, 5, 40])
def test_it_finds_what_a_search_finds_however_the_text_arrives(alphabet: int) -> None:
    rng = random.Random(alphabet)
    found = 0
    for _ in range(60):
        tokens: list[int] = []
        index = NgramIndex()
        for _ in range(rng.randrange(1, 12)):
            more = [rng.randrange(alphabet) for _ in range(rng.randrange(0, 15))]
            if tokens and rng.random() < 0.3:  # a quotation
                first = rng.randrange(len(tokens))
                more += tokens[first : first + 10]
            tokens += more
            index.extend(more)
            assert len(index) == len(tokens)
            assert index.follow(5) == naive(tokens, 5)
            found += bool(index.follow(5)[0])
    assert found > 50


def test_the_longest_match_wins_and_then_the_latest() -> None:
    index = NgramIndex()
    index.extend([9, 1, 2, 3, 50, 8, 1, 2, 3, 60, 7, 2, 3, 70, 6, 2, 3, 80, 9, 1, 2, 3])
    assert index.follow(1) == (4, [50])
    index.extend([5, 1, 2, 3])
    assert index.follow(1) == (3, [5])


def test_a_loop_goes_on() -> None:
    index = NgramIndex()
    index.extend([1, 2, 3, 1, 2, 3, 1, 2])
    assert index.follow(7) == (5, [3, 1, 2, 3, 1, 2, 3])
    index = NgramIndex()
    index.extend([4, 4, 4, 4])
    assert index.follow(3) == (3, [4, 4, 4])


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 2, 1]])
def test_nothing_to_go_by(tokens: list[int]) -> None:
    index = NgramIndex()
    index.extend(tokens)
    assert index.follow(4) == (0, [])
