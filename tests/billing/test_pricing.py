"""What a request costs by its quote: exact sums, one rounding, and nothing above the worst case."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribody.billing.pricing import (
    NOTHING_USED,
    Allowance,
    FreeUsed,
    Line,
    Quote,
    priced,
    rounded,
    storage_micro,
    worst_case,
)
from tribody.core.metering import Counts

YUAN = 1_000_000
V3 = Quote(
    tariff_digest="d",
    rule_id="v3",
    currency="CNY",
    at_ms=0,
    hit=YUAN // 2,
    miss=2 * YUAN,
    output=8 * YUAN,
)
ONE_OF_EACH = Counts(prompt_tokens=3, cached_tokens=1, completion_tokens=7, reasoning_tokens=5)


def change(quote, **changes):
    return msgspec.structs.replace(quote, **changes)


def line(kind, tokens, price, numerator, free_tokens=0):
    return Line(kind=kind, tokens=tokens, free_tokens=free_tokens, price=price, numerator=numerator)


def test_lines_of_a_request() -> None:
    found = priced(V3, ONE_OF_EACH)
    assert found.lines == (
        line("hit", 1, 500_000, 500_000),
        line("miss", 2, 2_000_000, 4_000_000),
        line("output", 7, 8_000_000, 56_000_000),
    )
    assert (found.currency, found.denominator, found.total_micro) == ("CNY", 1_000_000, 60)


def test_reasoning_with_a_price_of_its_own() -> None:
    found = priced(change(V3, reasoning=3 * YUAN), ONE_OF_EACH)
    assert found.lines[2:] == (
        line("output", 2, 8_000_000, 16_000_000),
        line("reasoning", 5, 3_000_000, 15_000_000),
    )
    assert found.total_micro == 36  # 35.5, of two equally near the even one


def test_reasoning_may_be_free_of_charge() -> None:
    found = priced(change(V3, reasoning=0), Counts(completion_tokens=3, reasoning_tokens=3))
    assert found.lines == (line("reasoning", 3, 0, 0),)


def test_kinds_without_tokens_have_no_line() -> None:
    assert priced(V3, Counts()).lines == ()
    assert priced(V3, Counts()).total_micro == 0
    assert [x.kind for x in priced(V3, Counts(prompt_tokens=1)).lines] == ["miss"]


def test_a_batch_pays_an_exact_fraction() -> None:
    found = priced(change(V3, numerator=1, denominator=3), ONE_OF_EACH)
    assert found.lines[0] == line("hit", 1, 500_000, 500_000)
    assert found.denominator == 3_000_000
    assert found.total_micro == 20  # 60.5 / 3
    assert priced(change(V3, numerator=2, denominator=3), ONE_OF_EACH).total_micro == 40


ALLOWANCE = Allowance(allowance_id="start", period="2026-11", hit=4, miss=3, output=2, reasoning=1)


@pytest.mark.parametrize(
    ("used", "free"),
    [
        (NOTHING_USED, {"hit": 4, "miss": 3, "output": 2, "reasoning": 1}),
        (FreeUsed(hit=1, miss=1, output=1), {"hit": 3, "miss": 2, "output": 1, "reasoning": 1}),
        (FreeUsed(hit=4, miss=3, output=2, reasoning=1), {}),
        (FreeUsed(hit=9, miss=9, output=9, reasoning=9), {}),
    ],
)
def test_free_tokens_come_first(used, free) -> None:
    quote = change(V3, reasoning=3 * YUAN, free=ALLOWANCE)
    counts = Counts(prompt_tokens=20, cached_tokens=10, completion_tokens=20, reasoning_tokens=10)
    found = priced(quote, counts, used)
    assert {x.kind: x.free_tokens for x in found.lines if x.free_tokens} == free
    for x in found.lines:
        assert x.numerator == (10 - x.free_tokens) * x.price
        assert x.tokens == 10


def test_no_more_is_free_than_there_are_tokens() -> None:
    found = priced(change(V3, free=ALLOWANCE), Counts(prompt_tokens=2))
    assert found.lines == (line("miss", 2, 2_000_000, 0, free_tokens=2),)


def test_what_was_free_elsewhere_does_not_matter_without_an_allowance() -> None:
    assert priced(V3, ONE_OF_EACH, FreeUsed(miss=9)) == priced(V3, ONE_OF_EACH)


@pytest.mark.parametrize(
    "counts",
    [
        Counts(prompt_tokens=1, cached_tokens=2),
        Counts(completion_tokens=1, reasoning_tokens=2),
        Counts(cached_tokens=-1),
        Counts(reasoning_tokens=-1),
        Counts(prompt_tokens=-1),
        Counts(completion_tokens=-1),
    ],
)
def test_impossible_counts_are_our_mistake(counts) -> None:
    with pytest.raises(ValueError, match="impossible counts"):
        priced(V3, counts)


def test_all_cached_and_all_reasoning_are_possible() -> None:
    counts = Counts(prompt_tokens=1, cached_tokens=1, completion_tokens=1, reasoning_tokens=1)
    assert priced(V3, counts).total_micro == 8  # 0.5 + 8


@pytest.mark.parametrize(
    ("numerator", "denominator", "nearest"),
    [(0, 2, 0), (1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (1, 3, 0), (2, 3, 1), (4, 3, 1)],
)
def test_half_goes_to_the_even_neighbour(numerator, denominator, nearest) -> None:
    assert rounded(numerator, denominator) == nearest


@given(numerator=st.integers(0, 10**24), denominator=st.integers(1, 10**12))
def test_rounded_is_fractions_round(numerator, denominator) -> None:
    assert rounded(numerator, denominator) == round(Fraction(numerator, denominator))


def test_the_worst_case_is_all_missed_and_all_generated() -> None:
    assert worst_case(V3, 3, 7) == 62
    assert worst_case(V3, 0, 0) == 0
    assert worst_case(change(V3, hit=0, miss=0, output=0), 10**9, 10**9) == 0
    assert worst_case(change(V3, hit=9 * YUAN), 3, 7) == 83
    assert worst_case(change(V3, reasoning=9 * YUAN), 3, 7) == 69
    assert worst_case(change(V3, reasoning=0), 3, 7) == 62
    assert worst_case(change(V3, numerator=1, denominator=4), 3, 7) == 16  # 15.5
    assert worst_case(change(V3, numerator=3, denominator=4), 3, 7) == 46  # 46.5
    assert worst_case(change(V3, result_micro=100, numerator=1, denominator=2), 3, 7) == 131


def test_storage_is_paid_by_the_token_hour() -> None:
    quote = change(V3, cache_storage=17_000, numerator=1, denominator=2)
    assert storage_micro(quote, 1_000_000, 3_600_000) == 17_000
    assert storage_micro(quote, 1_000, 3_600_000) == 17
    assert storage_micro(quote, 1_000, 3_600_000 // 2) == 8  # 8.5
    assert storage_micro(V3, 1_000, 3_600_000) == 0


PRICES = st.integers(0, 100 * YUAN)
TOKENS = st.integers(0, 10**6)
ALLOWANCES = st.builds(
    Allowance,
    allowance_id=st.just("a"),
    period=st.just("2026-11"),
    hit=TOKENS,
    miss=TOKENS,
    output=TOKENS,
    reasoning=TOKENS,
)
QUOTES = st.builds(
    Quote,
    tariff_digest=st.just("d"),
    rule_id=st.just("r"),
    currency=st.just("CNY"),
    at_ms=st.just(0),
    hit=PRICES,
    miss=PRICES,
    output=PRICES,
    reasoning=st.none() | PRICES,
    numerator=st.integers(0, 8),
    denominator=st.integers(1, 8),
    free=st.none() | ALLOWANCES,
    result_micro=PRICES,
)


@st.composite
def counts_within(draw, prompt, completion):
    prompt_tokens = draw(st.integers(0, prompt))
    completion_tokens = draw(st.integers(0, completion))
    return Counts(
        prompt_tokens=prompt_tokens,
        cached_tokens=draw(st.integers(0, prompt_tokens)),
        completion_tokens=completion_tokens,
        reasoning_tokens=draw(st.integers(0, completion_tokens)),
    )


@given(st.data(), QUOTES, TOKENS, TOKENS)
def test_no_outcome_is_above_the_worst_case(data, quote, prompt, completion) -> None:
    counts = data.draw(counts_within(prompt, completion))
    found = priced(quote, counts)
    assert 0 <= found.total_micro + quote.result_micro <= worst_case(quote, prompt, completion)


@given(st.data(), QUOTES)
def test_the_sum_is_rounded_once(data, quote) -> None:
    counts = data.draw(counts_within(10**6, 10**6))
    found = priced(quote, counts)
    reasoning = quote.output if quote.reasoning is None else quote.reasoning
    free = {x.kind: x.free_tokens for x in found.lines}
    exact = Fraction(quote.numerator, quote.denominator * 10**6) * (
        (counts.cached_tokens - free.get("hit", 0)) * quote.hit
        + (counts.prompt_tokens - counts.cached_tokens - free.get("miss", 0)) * quote.miss
        + (counts.completion_tokens - counts.reasoning_tokens) * quote.output
        - (free.get("output", 0)) * quote.output
        + (counts.reasoning_tokens - free.get("reasoning", 0)) * reasoning
    )
    assert found.total_micro == round(exact)
    assert sum(x.tokens for x in found.lines) == counts.prompt_tokens + counts.completion_tokens


@given(QUOTES)
def test_quotes_are_kept_as_json(quote) -> None:
    assert msgspec.json.decode(msgspec.json.encode(quote), type=Quote) == quote


def test_a_quote_in_one_line() -> None:
    assert V3.summary() == "v3: hit 0.5 / miss 2 / output 8 CNY per million tokens"
    full = change(
        V3,
        title="V3 at night",
        reasoning=3_000_001,
        numerator=1,
        denominator=2,
        cache_storage=17_000,
        free=ALLOWANCE,
        result_micro=1_500_000,
    )
    assert full.summary() == (
        "V3 at night: hit 0.5 / miss 2 / output 8 / reasoning 3.000001 CNY per million tokens, "
        "times 1/2, cache storage 0.017 CNY per million token-hours, free allowance start, "
        "1.5 CNY for an accepted result"
    )
    whole = change(V3, cache_storage=YUAN, result_micro=2 * YUAN, numerator=0, denominator=1)
    assert whole.summary().endswith(
        "per million tokens, times 0/1, cache storage 1 CNY per million token-hours, "
        "2 CNY for an accepted result"
    )
