"""An upstream provider's bill, read from CSV whatever it calls its columns.

Two shapes are understood.  Wide: a row holds the counts of a day and a model, a column each.  Long,
as DeepSeek's platform exports `amount-….csv`: a row holds one count, which a column `type` names,
with its price per token.  Several files are one bill (DeepSeek's `cost-….csv` holds the money).

Counts are whole numbers; money is exact, in fractions of a micro-unit where prices are per token.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

import msgspec

from tribody.billing.money import MICRO
from tribody.billing.reconcile_dates import DateError, Zone
from tribody.core.errors import BadConfig

Count = Literal["requests", "hit", "miss", "prompt", "completion"]
COUNTS: tuple[Count, ...] = ("requests", "hit", "miss", "prompt", "completion")
MAX_ROWS = 5_000_000
LARGEST_POWER = 15  # of ten, of a count or an amount

# What a column, or a value of the column `type`, may be called: in lower case, `_` for a space.
_WRITTEN = {
    "period": "period utc_date date day start_time_iso start_time time timestamp usage_date "
    "usage_date_utc 日期 时间 账期 使用日期",
    "end": "end end_time_iso end_time end_date 结束时间",
    "model": "model model_name model_id model_version 模型 模型名称",
    "type": "type usage_type token_type 类型 计费项",
    "amount": "amount quantity usage count 用量 数量",
    "price": "price unit_price 单价",
    "money": "cost total_cost money charge charged 金额 费用 消费金额",
    "currency": "currency 币种",
    "requests": "requests request_count num_requests num_model_requests calls 请求数 请求次数",
    "hit": "hit prompt_cache_hit_tokens input_cache_hit_tokens cache_hit_tokens cached_tokens "
    "input_cached_tokens cache_read_tokens 缓存命中",
    "miss": "miss prompt_cache_miss_tokens input_cache_miss_tokens cache_miss_tokens "
    "input_uncached_tokens uncached_tokens 缓存未命中",
    "prompt": "prompt prompt_tokens input_tokens 输入",
    "completion": "completion completion_tokens output_tokens 输出",
}
NAMES: Mapping[str, frozenset[str]] = {
    ours: frozenset(theirs.split()) for ours, theirs in _WRITTEN.items()
}


class BillRow(msgspec.Struct, kw_only=True):
    """A period and a model; None = the bill does not say."""

    period: str
    model: str
    counts: dict[Count, int] = {}
    stated: dict[str, Fraction] = {}  # micro-units by currency, as written
    priced: dict[str, Fraction] = {}  # the same from amounts and prices

    @property
    def money(self) -> dict[str, Fraction]:
        return self.stated or self.priced


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How the caller wants bills read."""

    columns: Mapping[str, str] = {}  # ours -> theirs, for headers and types that are not known
    only: Mapping[str, str] = {}  # their column -> the value that a row must have
    models: Mapping[str, str] = {}  # their model -> ours
    currency: str = "CNY"  # of amounts without one
    offset_minutes: int | None = None  # of the bill's days from UTC; None = as it says, else +08:00


class Bill(msgspec.Struct, kw_only=True):
    """What all files together say."""

    zone: Zone
    rows: dict[tuple[str, str], BillRow] = {}
    unread_columns: set[str] = set()
    unread_types: set[str] = set()
    num_rows: int = 0
    num_left_out: int = 0  # by `only`


def read_bill(files: Iterable[tuple[str, Iterable[str]]], reading: Reading) -> Bill:
    """`files`: names, and lines of CSV with a header.

    Raises: BadConfig naming file, line, column, value and remedy.
    """
    unknown = sorted(set(reading.columns) - set(NAMES))
    if unknown:
        raise BadConfig(f"{unknown[0]!r} is no column that is read; known are {', '.join(NAMES)}")
    bill = Bill(zone=Zone(reading.offset_minutes))
    for name, lines in files:
        table = csv.reader(lines, strict=True)
        try:
            header = next(table, None)
            if header is None:
                raise BadConfig(f"{name}: is empty; a bill begins with a line of column names")
            _read_file(name, _Header(name, header, reading), table, bill, reading)
        except csv.Error as error:
            raise BadConfig(f"{name}: line {table.line_num}: is not CSV: {error}") from None
    return bill


class _Header:
    """Where the columns of one file are."""

    def __init__(self, file: str, header: list[str], reading: Reading) -> None:
        self.names = [name.strip().removeprefix("\ufeff").strip() for name in header]
        self._reading = reading
        self.places: dict[str, int] = {}
        for index, name in enumerate(self.names):
            ours = self.meaning(name)
            if ours is None:
                continue
            if ours in self.places:
                raise BadConfig(
                    f"{file}: columns {self.names[self.places[ours]]!r} and {name!r} both look "
                    f"like {ours}; say which: --column {ours}=NAME"
                )
            self.places[ours] = index
        self.is_long = "type" in self.places
        self.day_is_utc = "utc" in self._named("period").lower()
        for needed in ("period", "model", *(("amount",) if self.is_long else ())):
            if needed not in self.places:
                raise BadConfig(
                    f"{file}: has no column that is known as {needed}; say which: --column "
                    f"{needed}=NAME (its columns are {', '.join(self.names)[:200]})"
                )
        for theirs in reading.only:
            if theirs not in self.names:
                raise BadConfig(f"{file}: --only {theirs}=…: there is no such column")
        self.unread = {
            name
            for index, name in enumerate(self.names)
            if index not in self.places.values() and name not in reading.only
        }
        if not self.is_long and "amount" in self.places:
            self.unread.add(self._named("amount"))  # of what, nothing says

    def meaning(self, name: str) -> str | None:
        """The name here of their column or type."""
        for ours, theirs in self._reading.columns.items():
            if name == theirs:
                return ours
        plain = "_".join(name.lower().replace("-", " ").split())
        for ours, known in NAMES.items():
            if plain in known and ours not in self._claimed():
                return ours
        return None

    def _claimed(self) -> set[str]:
        """Columns that the caller has named, if this file has them."""
        return {o for o, theirs in self._reading.columns.items() if theirs in self.names}

    def _named(self, ours: str) -> str:
        return self.names[self.places[ours]] if ours in self.places else ""


def _read_file(
    file: str, header: _Header, table: Iterator[list[str]], bill: Bill, reading: Reading
) -> None:
    bill.unread_columns |= header.unread
    for number, row in enumerate(table, 2):
        if not any(cell.strip() for cell in row):
            continue
        if bill.num_rows >= MAX_ROWS:
            raise BadConfig(f"{file}: more than {MAX_ROWS:,} rows; export fewer days at a time")
        if len(row) != len(header.names):
            raise BadConfig(
                f"{file}: row {number} has {len(row)} cells, the header has {len(header.names)}"
            )
        bill.num_rows += 1
        if any(row[header.names.index(theirs)] != want for theirs, want in reading.only.items()):
            bill.num_left_out += 1
            continue
        cells = {ours: row[index].strip() for ours, index in header.places.items()}
        try:
            _add(cells, header, bill, reading)
        except (_CellError, DateError) as error:
            raise BadConfig(f"{file}: row {number}: {error}") from None


def _add(cells: dict[str, str], header: _Header, bill: Bill, reading: Reading) -> None:
    period = bill.zone.period(
        cells["period"], cells.get("end") or None, day_is_utc=header.day_is_utc
    )
    model = reading.models.get(cells["model"], cells["model"])
    row = bill.rows.setdefault((period, model), BillRow(period=period, model=model))
    currency = cells.get("currency", "").upper() or reading.currency
    if header.is_long:
        count = header.meaning(cells["type"])
        amount = _whole("amount", cells["amount"])
        if count in COUNTS:
            row.counts[count] = row.counts.get(count, 0) + amount
        else:
            bill.unread_types.add(cells["type"])
        if cells.get("price"):
            price = _number("price", cells["price"])
            row.priced[currency] = row.priced.get(currency, Fraction()) + amount * price * MICRO
    else:
        for count in COUNTS:
            if cells.get(count):
                row.counts[count] = row.counts.get(count, 0) + _whole(count, cells[count])
    if cells.get("money"):
        money = _number("money", cells["money"].lstrip("¥￥$ ")) * MICRO
        row.stated[currency] = row.stated.get(currency, Fraction()) + money


class _CellError(Exception):
    """A cell that cannot be read."""


def _number(column: str, text: str) -> Fraction:
    try:
        value = Decimal(text.replace(",", "")[:64])
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value.adjusted()) > 2 * LARGEST_POWER:
        raise _CellError(f"{column} {text[:40]!r} is not a number")
    if value.adjusted() > LARGEST_POWER:
        raise _CellError(f"{column} {text[:40]} is above the limit of 1e{LARGEST_POWER}")
    return Fraction(value)


def _whole(column: str, text: str) -> int:
    value = _number(column, text)
    if value.denominator != 1 or value < 0:
        raise _CellError(f"{column} {text[:40]!r} is not a whole number")
    return int(value)
