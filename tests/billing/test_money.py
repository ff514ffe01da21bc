"""Amounts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribody.billing.money import MAX_MICRO, parse_micro, show_column, show_micro
from tribody.core.errors import BadConfig


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        ("0", 0),
        ("100", 100_000_000),
        ("0.5", 500_000),
        ("-3.000001", -3_000_001),
        ("+12.34", 12_340_000),
        (" 7 ", 7_000_000),
        ("1000000000", MAX_MICRO),
    ],
)
def test_parse(text: str, micro: int) -> None:
    assert parse_micro("--amount", text) == micro


@pytest.mark.parametrize(
    "text",
    ["", ".", ".5", "5.", "1e3", "0.0000001", "1,000", "٣", "NaN", "inf", "--1", "0x10", "1_000"],
)
@pytest.mark.parametrize("around", ["{}", " {} "])
def test_what_is_no_amount(text: str, around: str) -> None:
    with pytest.raises(BadConfig, match="--amount"):
        parse_micro("--amount", around.format(text))


@pytest.mark.parametrize("text", ["1000000000.000001", "9" * 11, "9" * 5000])
def test_what_is_too_much(text: str) -> None:
    with pytest.raises(BadConfig, match="--amount") as caught:
        parse_micro("--amount", text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (12_340_000, "12.34"),
        (12_345_600, "12.3456"),
        (1_234_567_000_000, "1,234,567.00"),
    ],
)
def test_show(micro: int, text: str) -> None:
    assert show_micro(micro) == text


def test_without_places_there_is_no_point() -> None:
    assert show_micro(1_005_000_000, 0) == "1,005"
    assert show_micro(1_005_500_000, 0) == "1,005.5"


@given(st.integers(-MAX_MICRO, MAX_MICRO))
def test_what_is_shown_is_exact(micro: int) -> None:
    assert parse_micro("amount", show_micro(micro).replace(",", "")) == micro


def test_a_column_has_one_number_of_places() -> None:
    assert show_column([1_500_000, 20, 0]) == ["1.50000", "0.00002", "0.00000"]
    assert show_column([1_500_000]) == ["1.50"]
    assert show_column([]) == []
