"""What `tribody reconcile` does."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

from tribody.billing.money import CURRENCIES, show_micro
from tribody.billing.periods import DAY_MS, EPOCH
from tribody.billing.queries import MINUTE_MS, UpstreamUsage
from tribody.billing.reconcile import Expected, Finding, compare, numbers_of
from tribody.billing.reconcile_bill import Bill, Reading, read_bill
from tribody.billing.usage import Chosen, usage_records
from tribody.cli.account_flags import Where
from tribody.cli.accounts import open_books
from tribody.cli.tables import print_json, print_table
from tribody.cli.tariff_work import read_tariff
from tribody.core.errors import BadConfig

MAX_BILL_BYTES = 1 << 30
OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)
CHARGED = "charged"


@dataclass(frozen=True)
class ReconcileOptions:
    """As typed."""

    bills: list[Path]
    columns: list[str]
    only: list[str]
    models: list[str]
    utc_offset: str | None
    currency: str
    prices: str | None
    tolerance: str
    tenant: str | None
    all_rows: bool

    def reading(self) -> Reading:
        """Raises: BadConfig."""
        if self.currency not in CURRENCIES:
            raise BadConfig(
                f"--currency {self.currency[:16]!r} is not one of {', '.join(CURRENCIES)}"
            )
        return Reading(
            columns=_pairs("--column", self.columns),
            only=_pairs("--only", self.only),
            models=_pairs("--model-name", self.models),
            currency=self.currency,
            offset_minutes=None if self.utc_offset is None else _offset(self.utc_offset),
        )


def run(asked: ReconcileOptions, where: Where) -> int:
    """The exit code."""
    reading = asked.reading()
    tolerance = _share(asked.tolerance)
    by_list = asked.prices is not None and asked.prices != CHARGED
    prices = read_tariff(asked.prices or "") if by_list else None
    bill = read_bill(_files(asked.bills), reading)
    if not bill.rows:
        raise BadConfig("the bill has no rows to compare" + (", see --only" if asked.only else ""))
    first_ms, last_ms = _bounds(bill)
    chosen = Chosen(tenant_id=asked.tenant, from_ms=first_ms, to_ms=last_ms)
    ours = UpstreamUsage(bill.zone.minutes, by_month=bool(bill.zone.by_month), prices=prices)
    with open_books(where) as db:
        ours.read(usage_records(db, chosen))
    expected: Expected | None = None
    if asked.prices == CHARGED:
        expected = _charged(ours, by_month=bool(bill.zone.by_month))
    elif prices is not None:
        expected = ours.expected
    findings = compare(bill, ours.rows, expected, tolerance)
    numbers = numbers_of(findings)
    if where.as_json:
        print_json(
            {
                "summary": numbers,
                "findings": findings,
                "unread_columns": sorted(bill.unread_columns),
                "unread_types": sorted(bill.unread_types),
            }
        )
    else:
        _print(bill, findings, all_rows=asked.all_rows)
        print(", ".join(f"{status} {count}" for status, count in numbers.items()))
    return 0 if numbers["match"] == len(findings) else 1


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Iterator[str]]]:
    """Every CSV file, and those in archives.  Raises: BadConfig."""
    for path in paths:
        try:
            if path.suffix.lower() == ".zip":
                yield from _archive(path)
                continue
            if path.stat().st_size > MAX_BILL_BYTES:
                raise BadConfig(_too_long(path.name))
            with path.open(encoding="utf-8", newline="") as file:
                yield path.name, _lines(path.name, file)
        except (OSError, zipfile.BadZipFile) as error:
            raise BadConfig(f"{path}: cannot be read: {error}") from error


def _archive(path: Path) -> Iterator[tuple[str, Iterator[str]]]:
    with zipfile.ZipFile(path) as archive:
        members = [one for one in archive.infolist() if one.filename.lower().endswith(".csv")]
        if not members:
            raise BadConfig(f"{path}: has no .csv file in it")
        for member in members:
            if member.file_size > MAX_BILL_BYTES:
                raise BadConfig(_too_long(member.filename))
            with archive.open(member) as file:
                text = io.TextIOWrapper(file, encoding="utf-8", newline="")
                yield member.filename, _lines(member.filename, text)


def _lines(name: str, file: Iterable[str]) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise BadConfig(f"{name}: is not UTF-8 ({error}); save it as UTF-8") from None


def _too_long(name: str) -> str:
    return f"{name}: is longer than the limit of {MAX_BILL_BYTES >> 20} MiB; export fewer days"


def _bounds(bill: Bill) -> tuple[int, int]:
    """From the first to the last day (or month) that the bill has, in its zone."""
    days = sorted({period for period, _model in bill.rows})
    first, last = days[0], days[-1]
    if bill.zone.by_month:
        year, month = int(last[:4]), int(last[5:])
        first, last = f"{first}-01", f"{year + month // 12:04d}-{month % 12 + 1:02d}-01"
        last_ms = _start_ms(bill, last)
    else:
        last_ms = _start_ms(bill, last) + DAY_MS
    return _start_ms(bill, first), last_ms


def _start_ms(bill: Bill, day: str) -> int:
    number = date.fromisoformat(day).toordinal() - EPOCH
    return number * DAY_MS - bill.zone.minutes * MINUTE_MS


def _charged(ours: UpstreamUsage, *, by_month: bool) -> Expected:
    found: dict[tuple[str, str], dict[str, Fraction]] = {}
    for row in ours.rows:
        money = found.setdefault((row.month if by_month else row.day, row.model), {})
        if row.currency:
            money[row.currency] = Fraction(row.charged_micro)
    return found


def _print(bill: Bill, findings: Sequence[Finding], *, all_rows: bool) -> None:
    if bill.unread_types:
        names = ", ".join(sorted(bill.unread_types))
        print(f"types that are not compared (their money is counted): {names}")
    if bill.unread_columns:
        print(f"columns that are not read: {', '.join(sorted(bill.unread_columns))}")
    if bill.num_left_out:
        print(f"rows left out by --only: {bill.num_left_out:,}")
    shown = [one for one in findings if all_rows or one.status != "match" or one.notes]
    rows = []
    for one in shown:
        figures: list[tuple[str, str, str, str]] = [
            (count, f"{pair.theirs:,}", f"{pair.ours:,}", f"{pair.theirs - pair.ours:+,}")
            for count, pair in one.counts.items()
            if all_rows or not pair.within
        ]
        for currency in sorted(one.billed_micro.keys() | one.expected_micro.keys()):
            billed, right = one.billed_micro.get(currency, 0), one.expected_micro.get(currency)
            figures.append(
                (
                    currency,
                    show_micro(billed),
                    "" if right is None else show_micro(right),
                    "" if right is None else show_micro(billed - right),
                )
            )
        for index, figure in enumerate(figures or [("", "", "", "")]):
            head = (one.period, one.model, one.status) if index == 0 else ("", "", "")
            rows.append((*head, *figure))
    if rows:
        print_table(("period", "model", "", "figure", ">theirs", ">ours", ">difference"), rows)
    for one in shown:
        for note in one.notes:
            print(f"{one.period} {one.model}: {note}")


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise BadConfig(f"{option} {text[:80]!r} is not NAME=VALUE with a name of its own")
        found[name] = value
    return found


def _offset(text: str) -> int:
    found = OFFSET.fullmatch(text.strip())
    minutes = int(found[2]) * 60 + int(found[3]) if found else 0
    if found is None or minutes > 14 * 60 or int(found[3]) >= 60:
        raise BadConfig(f"--utc-offset {text[:40]!r} is not one such as +08:00 or -05:00")
    return -minutes if found[1] == "-" else minutes


def _share(text: str) -> Fraction:
    number = text.strip().removesuffix("%")
    try:
        value = Decimal(number[:32])
    except InvalidOperation:
        value = Decimal("NaN")
    share = (
        Fraction(value) / (100 if text.strip().endswith("%") else 1)
        if (value.is_finite() and abs(value.adjusted()) < 30)
        else Fraction(-1)
    )
    if not 0 <= share < 1:
        raise BadConfig(f"--tolerance {text[:40]!r} is not a share from 0 to 100%, such as 0.1%")
    return share
