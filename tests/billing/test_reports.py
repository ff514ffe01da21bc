"""Usage added up, and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tribody.billing.reports import MAX_TENANT_CHARTS, UsageRow, grouped, money_by_currency, page
from tribody.billing.reports_svg import Series, columns_chart, line_chart, nice_top

ROWS = [
    UsageRow(
        day="2026-11-01",
        tenant="acme",
        model="r1",
        currency="CNY",
        requests=2,
        prompt_tokens=100,
        cached_tokens=25,
        completion_tokens=10,
        reasoning_tokens=4,
        charged_micro=123,
    ),
    UsageRow(
        day="2026-11-02",
        tenant="acme",
        model="v3",
        currency="CNY",
        requests=1,
        prompt_tokens=50,
        cached_tokens=50,
        completion_tokens=1,
        charged_micro=1_000_000,
    ),
    UsageRow(
        day="2026-11-02",
        tenant="zeta",
        model="r1",
        currency="USD",
        requests=7,
        prompt_tokens=7,
        completion_tokens=70,
        charged_micro=5,
    ),
    UsageRow(day="2026-11-02", tenant="local", model="r1", requests=1, prompt_tokens=3),
]


def test_groups_add_up_by_currency() -> None:
    assert grouped(ROWS, ("day",)) == [
        UsageRow(
            day="2026-11-01",
            currency="CNY",
            requests=2,
            prompt_tokens=100,
            cached_tokens=25,
            completion_tokens=10,
            reasoning_tokens=4,
            charged_micro=123,
        ),
        UsageRow(day="2026-11-02", requests=1, prompt_tokens=3),
        UsageRow(
            day="2026-11-02",
            currency="CNY",
            requests=1,
            prompt_tokens=50,
            cached_tokens=50,
            completion_tokens=1,
            charged_micro=1_000_000,
        ),
        UsageRow(
            day="2026-11-02",
            currency="USD",
            requests=7,
            prompt_tokens=7,
            completion_tokens=70,
            charged_micro=5,
        ),
    ]
    assert [row.tenant for row in grouped(ROWS, ("tenant", "model"))] == [
        "acme",
        "acme",
        "local",
        "zeta",
    ]
    assert grouped([], ("day",)) == []


def test_money_of_two_currencies_is_never_added() -> None:
    assert money_by_currency(ROWS) == {"CNY": 1_000_123, "USD": 5}


def test_hit_rate() -> None:
    assert ROWS[0].hit_rate == 0.25
    assert ROWS[0].miss_tokens == 75
    assert UsageRow().hit_rate == 0


class Tags(HTMLParser):
    """Counts elements and fails on one that is closed without having been opened."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "rect", "path", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "|"


def read(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def test_the_page_has_every_tenant_and_day() -> None:
    tags = read(page(ROWS, "Usage", "November 2026"))
    # All: tokens, two currencies, hit rate; acme and zeta: three each; local: no money.
    assert tags.seen.count("svg") == 4 + 3 + 3 + 2
    assert "|1.000123|" in tags.text
    assert "|0.000005|" in tags.text
    assert "2026-11-01" in tags.text
    assert "|50.0%|" in tags.text  # acme: 75 of 150


def test_names_cannot_be_markup() -> None:
    html = page(
        [UsageRow(day="<b>", tenant='"><script>alert(1)</script>', prompt_tokens=1)], "<i>", "<u>"
    )
    assert not {"script", "b", "i", "u"} & set(read(html).seen)


def test_nothing_to_show_is_a_page_too() -> None:
    assert read(page([], "Usage", "")).seen.count("svg") == 2


def test_many_tenants_have_a_row_and_only_some_a_chart() -> None:
    rows = [
        UsageRow(day="2026-11-01", tenant=f"tenant-{i:03}", prompt_tokens=i + 1) for i in range(50)
    ]
    html = page(rows, "Usage", "")
    assert read(html).seen.count("svg") == 2 + 2 * MAX_TENANT_CHARTS
    assert html.count("tenant-000") == 2  # the tables alone
    assert f"{MAX_TENANT_CHARTS} tenants" in html


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (7, 10), (10, 10), (999, 1000)]
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert nice_top(value) == pytest.approx(top, rel=1e-12)


def test_columns_stand_on_each_other() -> None:
    svg = columns_chart("t", ["a"], [Series("x", "#000", [1]), Series("y", "#fff", [3])])
    bars = [
        (float(y), float(height))
        for y, height in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    ]
    (low_y, low), (high_y, high) = bars[:2]
    assert high_y + high == pytest.approx(low_y)
    assert high == pytest.approx(3 * low, abs=0.2)


def test_a_line_goes_through_every_value() -> None:
    svg = line_chart("t", ["a", "b", "c"], [0, 50, 100], 100)
    points = re.search(r'points="([^"]+)"', svg)
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])
    assert heights[0] > heights[2]
