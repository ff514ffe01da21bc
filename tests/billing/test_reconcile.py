"""An upstream's bill: read in many shapes, compared with our own usage."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tribody.billing.reconcile import compare, numbers_of, within
from tribody.billing.reconcile_bill import Bill, Reading, read_bill
from tribody.billing.reports import UsageRow
from tribody.core.errors import BadConfig

WIDE = """date,model,prompt_cache_hit_tokens,prompt_cache_miss_tokens,completion_tokens,cost
2026-11-01,deepseek-chat,1000,500,20,0.001
2026-11-01,deepseek-reasoner,1,2,3,0
2026-11-02,deepseek-chat,10,5,2,0.25
"""

# As DeepSeek's platform exports them: a byte order mark, a count a row, prices per token.
AMOUNTS = """\ufeffuser_id,start_time_iso,end_time_iso,model,api_key_name,api_key,type,price,amount
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,a,x,request_count,,2
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,a,x,input_cache_hit_tokens,0.00000015,1000
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,a,x,input_cache_miss_tokens,4.5e-6,400
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,a,x,output_tokens,0.0000135,"1,000"
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,b,y,output_tokens,0.0000135,7
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,b,y,web_search,0.005,3
"""
COSTS = """user_id,start_time_iso,end_time_iso,model,wallet_type,cost,currency
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,granted,0.01,CNY
u,2026-11-01T00:00:00+08:00,2026-11-02T00:00:00+08:00,deepseek-v4-pro,paid,0.0205445,CNY
"""


def read(*texts: str, **reading: object) -> Bill:
    files = [(f"{i}.csv", text.splitlines(keepends=True)) for i, text in enumerate(texts)]
    return read_bill(files, Reading(**reading))  # type: ignore[arg-type]


def test_a_wide_bill() -> None:
    bill = read(WIDE)
    assert bill.zone.minutes == 480
    assert sorted(bill.rows) == [
        ("2026-11-01", "deepseek-chat"),
        ("2026-11-01", "deepseek-reasoner"),
        ("2026-11-02", "deepseek-chat"),
    ]
    row = bill.rows["2026-11-01", "deepseek-chat"]
    assert row.counts == {"hit": 1000, "miss": 500, "completion": 20}
    assert row.money == {"CNY": Fraction(1000)}


def test_deepseeks_two_files_are_one_bill() -> None:
    bill = read(AMOUNTS, COSTS)
    (row,) = bill.rows.values()
    assert row.counts == {"requests": 2, "hit": 1000, "miss": 400, "completion": 1007}
    # 1000 x 0.15 + 400 x 4.5 + 1007 x 13.5 yuan per million, and three searches.
    assert row.priced == {"CNY": Fraction(150 + 1800) + Fraction("13594.5") + 15_000}
    assert row.stated == {"CNY": Fraction("30544.5")}
    assert row.money == row.stated
    assert bill.unread_types == {"web_search"}
    assert bill.unread_columns == {"user_id", "api_key", "api_key_name", "wallet_type"}


def test_one_key_of_a_bill() -> None:
    bill = read(AMOUNTS, only={"api_key_name": "b"})
    (row,) = bill.rows.values()
    assert row.counts == {"completion": 7}
    assert (bill.num_rows, bill.num_left_out) == (6, 4)


@pytest.mark.parametrize(
    ("header", "date", "minutes", "period"),
    [
        ("date", "2026-11-01", 480, "2026-11-01"),
        ("utc_date", "2026-11-01", 0, "2026-11-01"),
        ("UTC date", "20261101", 0, "2026-11-01"),
        ("usage-date", "2026/11/1", 480, "2026-11-01"),
        ("start_time_iso", "2026-11-01T00:00:00+08:00", 480, "2026-11-01"),
        ("start_time_iso", "2026-11-01T23:59:59Z", 0, "2026-11-01"),
        ("start_time", "2026-11-01 23:30:00", 480, "2026-11-01"),
        ("timestamp", "1793462400", 480, "2026-11-01"),
        ("timestamp", "1793548799999", 480, "2026-11-01"),
        ("timestamp", "1793548800000", 480, "2026-11-02"),
        ("month", "2026-11", 480, "2026-11"),
        ("账期", "202611", 480, "2026-11"),
    ],
)
def test_dates(header: str, date: str, minutes: int, period: str) -> None:
    columns = {"period": "month"} if header == "month" else {}
    bill = read(f"{header},model,output_tokens\n{date},m,1\n", columns=columns)
    assert [key[0] for key in bill.rows] == [period]
    assert bill.zone.minutes == minutes


def test_hours_are_added_up_to_the_days_of_one_zone() -> None:
    lines = "".join(f"2026-11-01T{hour:02}:00:00Z,m,1\n" for hour in range(24))
    table = f"start_time,model,output_tokens\n{lines}"
    assert [row.counts for row in read(table).rows.values()] == [{"completion": 24}]
    shifted = read(table, offset_minutes=480)
    assert {key[0]: row.counts["completion"] for key, row in shifted.rows.items()} == {
        "2026-11-01": 16,
        "2026-11-02": 8,
    }


def test_names_of_columns_types_and_models() -> None:
    bill = read(
        "tag,engine,kind,n\n2026-11-01,big,OUT,5\n2026-11-01,big,IN,6\n",
        columns={
            "period": "tag",
            "model": "engine",
            "type": "kind",
            "amount": "n",
            "completion": "OUT",
            "prompt": "IN",
        },
        models={"big": "deepseek-r1"},
    )
    assert bill.rows["2026-11-01", "deepseek-r1"].counts == {"completion": 5, "prompt": 6}
    assert bill.unread_columns == bill.unread_types == set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("date,completion_tokens\n", "--column model=NAME"),
        ("model,completion_tokens\n", "--column period=NAME"),
        ("date,model,type\n", "--column amount=NAME"),
        ("date,day,model\n", "'date' and 'day' both look like period"),
        ("date,model,output_tokens\n2026-11-01,m\n", "row 2 has 2 cells, the header has 3"),
        ("date,model,output_tokens\n2026-13-01,m,1\n", "row 2: '2026-13-01' is not a day"),
        ("date,model,output_tokens\nyesterday,m,1\n", "'yesterday' is not a date"),
        ("date,model,output_tokens\n2026-11-01,m,1.5\n", "'1.5' is not a whole number"),
        ("date,model,output_tokens\n2026-11-01,m,-1\n", "'-1' is not a whole number"),
        ("date,model,output_tokens\n2026-11-01,m,NaN\n", "'NaN' is not a number"),
        ("date,model,output_tokens\n2026-11-01,m,1e999999999\n", "is not a number"),
        ("date,model,output_tokens\n2026-11-01,m,1e16\n", "limit of 1e15"),
        ("date,model,cost\n2026-11-01,m,x\n", "money 'x' is not a number"),
        ("date,model,cost\n2026-11-01,m,1\n2026-11,m,1\n", "some rows are of days"),
        ('date,model,cost\n2026-11-01,"m,1\n', "not CSV"),
        (
            "start_time,end_time,model\n2026-11-01T00:00:00Z,2026-11-03T00:00:00Z,m\n",
            "more than a day",
        ),
    ],
)
def test_bills_that_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith("0.csv")


def test_an_unknown_column_or_filter() -> None:
    with pytest.raises(BadConfig, match="'colour' is no column"):
        read(WIDE, columns={"colour": "x"})
    with pytest.raises(BadConfig, match="--only key"):
        read(WIDE, only={"key": "x"})


def test_days_of_utc_and_of_china_do_not_mix() -> None:
    with pytest.raises(BadConfig, match="--utc-offset"):
        read(COSTS, "utc_date,model,cost\n2026-11-01,m,1\n")
    assert read(COSTS, "utc_date,model,cost\n2026-11-01,m,1\n", offset_minutes=480).num_rows == 3


def usage(day: str, model: str, counts: tuple[int, int, int], **more: object) -> UsageRow:
    hit, miss, completion = counts
    return UsageRow(
        day=day,
        model=model,
        requests=1,
        prompt_tokens=hit + miss,
        cached_tokens=hit,
        completion_tokens=completion,
        **more,  # type: ignore[arg-type]
    )


def test_what_matches_what_differs_and_what_is_missing() -> None:
    findings = compare(
        read(WIDE),
        [
            usage("2026-11-01", "deepseek-chat", (900, 500, 20), currency="CNY", charged_micro=7),
            usage("2026-11-01", "deepseek-chat", (100, 0, 0)),
            usage("2026-11-02", "deepseek-chat", (10, 5, 3)),
            usage("2026-11-03", "deepseek-chat", (1, 1, 1)),
        ],
    )
    assert [(f.period, f.model, f.status) for f in findings] == [
        ("2026-11-01", "deepseek-chat", "match"),
        ("2026-11-01", "deepseek-reasoner", "missing here"),
        ("2026-11-02", "deepseek-chat", "differs"),
        ("2026-11-03", "deepseek-chat", "missing there"),
    ]
    assert findings[0].charged_micro == {"CNY": 7}
    assert findings[2].counts["completion"].theirs == 2
    assert findings[2].counts["completion"].ours == 3
    assert not findings[2].counts["completion"].within
    assert findings[2].counts["hit"].within
    assert numbers_of(findings) == {
        "match": 1,
        "differs": 1,
        "missing here": 1,
        "missing there": 1,
    }


def test_tolerance_is_a_share_of_the_larger_figure() -> None:
    assert within(1000, 999, Fraction(1, 1000))
    assert within(999, 1000, Fraction(1, 1000))
    assert not within(1000, 998, Fraction(1, 1000))
    assert within(0, 0, Fraction(0))
    assert not within(0, 1, Fraction(1, 2))
    table = "date,model,output_tokens\n2026-11-01,m,1000\n"
    ours = [usage("2026-11-01", "m", (0, 0, 999))]
    assert compare(read(table), ours)[0].status == "differs"
    assert compare(read(table), ours, tolerance=Fraction(1, 1000))[0].status == "match"


def test_money_is_judged_only_when_it_is_known_what_it_should_be() -> None:
    table = "date,model,output_tokens,cost\n2026-11-01,m,10,0.5\n"
    ours = [usage("2026-11-01", "m", (0, 0, 10))]
    key = ("2026-11-01", "m")

    def status(expected: dict[tuple[str, str], dict[str, Fraction]] | None) -> str:
        return compare(read(table), ours, expected)[0].status

    assert status(None) == "match"
    assert status({key: {"CNY": Fraction(500_000)}}) == "match"
    assert status({key: {"CNY": Fraction(500_001)}}) == "match"  # one request's own rounding
    assert status({key: {"CNY": Fraction(500_002)}}) == "differs"
    assert status({key: {"USD": Fraction(500_000)}}) == "differs"
    assert status({}) == "differs"


def test_a_bill_that_contradicts_itself_is_pointed_out() -> None:
    (found,) = compare(read(AMOUNTS, COSTS.replace("0.0205445", "0.03")), [])
    assert found.notes == [
        "the bill's own prices and amounts make 30544 micro-CNY, it states 40000"
    ]
    (found,) = compare(read(AMOUNTS, COSTS), [])
    assert found.notes == []


def test_months_are_compared_with_months() -> None:
    bill = read("month,model,output_tokens\n2026-11,m,10\n", columns={"period": "month"})
    (found,) = compare(bill, [UsageRow(month="2026-11", model="m", completion_tokens=10)])
    assert (found.period, found.status) == ("2026-11", "match")
