"""What callers are told when the ledger says no: value, limit and remedy."""

from __future__ import annotations

from tribody.billing.records import CapReached, IdempotencyConflict, NoBalance, UnknownRequest


def test_what_is_said_without_money():
    error = NoBalance(5, 3, "CNY")
    assert str(error) == "5 micro-CNY are needed and 3 are available; top up the balance"
    assert (error.needed_micro, error.available_micro, error.currency) == (5, 3, "CNY")


def test_what_is_said_at_a_limit():
    error = CapReached("tokens_per_day", 7, scope="key", resets_ms=9)
    assert str(error) == (
        "the key's limit of 7 tokens per day is reached; wait for the next one, ask for less, or "
        "have the limit raised"
    )
    assert (error.which, error.limit, error.scope, error.resets_ms) == (
        "tokens_per_day",
        7,
        "key",
        9,
    )


def test_what_is_said_of_keys_and_requests_is_cut_short():
    assert f"'{'k' * 64}'" in str(IdempotencyConflict("k" * 100))
    assert f"'{'r' * 80}'" in str(UnknownRequest("r" * 100, "reservation"))
