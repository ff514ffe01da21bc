"""What `tribody ledger` does."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from tribody.billing import ledger, queries
from tribody.billing.exports import Cell, Columns, save_csv, save_parquet, write_csv
from tribody.billing.invoice import lines_of
from tribody.billing.money import CURRENCIES, parse_micro, show_column, show_micro
from tribody.billing.pricing import rounded
from tribody.billing.records import Balance, Purse
from tribody.billing.replay import replay
from tribody.billing.statements import Purses, Statement, StatementLine
from tribody.billing.transfers import TransferKind
from tribody.billing.usage import Chosen, usage_records
from tribody.billing.verify import Head, Report, verify
from tribody.cli.account_flags import Days, Where
from tribody.cli.account_texts import parse_days, show_period
from tribody.cli.accounts import now_ms, open_accounts, open_books
from tribody.cli.tables import print_json, print_pairs, print_table
from tribody.cli.tariff_work import read_tariff
from tribody.core.errors import BadConfig
from tribody.storage.database import Database
from tribody.tenancy import store

MAX_NOTE = 200  # characters
MAX_KEY = 200
KNOWN = re.compile(r"(\d{1,18}):([0-9a-f]{64})", re.ASCII)
USAGE: Columns = [
    ("sequence", "integer"),
    ("request_id", "text"),
    ("tenant_id", "text"),
    ("user_id", "text"),
    ("key_id", "text"),
    ("model", "text"),
    ("route", "text"),
    ("streamed", "boolean"),
    ("is_batch", "boolean"),
    ("started_ms", "integer"),
    ("ended_ms", "integer"),
    ("prompt_tokens", "integer"),
    ("cached_tokens", "integer"),
    ("completion_tokens", "integer"),
    ("reasoning_tokens", "integer"),
    ("outcome", "text"),
    ("currency", "text"),
    ("charged_micro", "integer"),
    ("tariff_digest", "text"),
    ("rule_id", "text"),
]


@dataclass(frozen=True)
class Money:
    """A payment, as typed."""

    kind: TransferKind
    tenant: str
    amount: str
    note: str
    currency: str | None
    idempotency_key: str | None
    granted: bool = False


class BalanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's, as `--json` prints it."""

    tenant_id: str
    credit_micro: int
    balances: list[Balance]


# --- verify ---------------------------------------------------------------------------------------


def check(known: str | None, where: Where) -> int:
    """The exit code."""
    head = _head(known)
    with open_books(where) as db, _bar() as bar:
        task = bar.add_task("verifying", total=None)
        report = verify(
            db, lambda done, total: bar.update(task, completed=done, total=total), known=head
        )
    if where.as_json:
        print_json(report)
    else:
        _print_report(report)
    return 0 if report.is_right else 1


def _head(known: str | None) -> Head | None:
    if known is None:
        return None
    found = KNOWN.fullmatch(known.strip())
    if found is None:
        raise BadConfig(f"--known {known[:100]!r} is not SEQUENCE:HASH as a verification prints it")
    return Head(int(found[1]), found[2])


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _print_report(report: Report) -> None:
    for problem in report.problems:
        print(f"wrong: {problem}")
    if report.num_problems > len(report.problems):
        print(f"… and {report.num_problems - len(report.problems)} more")
    print(
        f"{report.entries:,} entries, {report.requests:,} requests, {report.charges:,} charges: "
        + ("all right" if report.is_right else f"{report.num_problems:,} problems")
    )
    print(f"ends with {report.head.sequence}:{report.head.hash}")


# --- money ----------------------------------------------------------------------------------------


def balance(tenant: str | None, where: Where) -> None:
    with open_accounts(where) as accounts:
        db = accounts.db
        chosen = store.all_tenants(db) if tenant is None else [store.find_tenant(db, tenant)]
        views = [
            BalanceView(
                tenant_id=one.id,
                credit_micro=one.credit_micro,
                balances=ledger.balances(db, one.id) or [Balance(currency=one.currency)],
            )
            for one in chosen
        ]
    if where.as_json:
        print_json(views)
        return
    rows = [(view, one) for view in views for one in view.balances]
    columns = [
        show_column([getattr(one, name) for _view, one in rows])
        for name in ("granted_micro", "topped_up_micro", "held_micro", "available_micro")
    ]
    print_table(
        ("tenant", "currency", ">granted", ">topped up", ">held", ">available", ">credit"),
        [
            (
                view.tenant_id,
                one.currency,
                *(column[index] for column in columns),
                show_micro(view.credit_micro) if view.credit_micro else "",
            )
            for index, (view, one) in enumerate(rows)
        ],
    )


def transfer(given: Money, where: Where) -> None:
    amount = parse_micro("AMOUNT", given.amount)
    _check_text("--note", given.note, MAX_NOTE)
    key = given.idempotency_key or f"cli-{uuid.uuid4()}"
    _check_text("--idempotency-key", key, MAX_KEY)
    if given.currency is not None and given.currency not in CURRENCIES:
        raise BadConfig(f"--currency {given.currency[:16]!r} is not one of {', '.join(CURRENCIES)}")
    if given.kind == "adjust" and not given.note:
        raise BadConfig("--note is missing: say why the balance is corrected")
    with open_accounts(where) as accounts, accounts.db.transaction():
        db = accounts.db
        currency = given.currency or store.find_tenant(db, given.tenant).currency
        store.find_tenant(db, given.tenant)
        before = queries.head(db).sequence
        sequence = _book(db, given, amount, currency, key, accounts.at_ms, accounts.who)
        after = next(one for one in ledger.balances(db, given.tenant) if one.currency == currency)
    is_new = sequence > before
    if where.as_json:
        print_json(
            {"sequence": sequence, "is_new": is_new, "idempotency_key": key, "balance": after}
        )
        return
    what = given.kind.replace("_", "-")
    print(
        f"entry {sequence}: {what} {show_micro(amount)} {currency}, {given.tenant}"
        + ("" if is_new else "; it was booked before, nothing has changed")
    )
    print(
        f"now granted {show_micro(after.granted_micro)}, topped up "
        f"{show_micro(after.topped_up_micro)}, held {show_micro(after.held_micro)}"
    )


def _book(
    db: Database, given: Money, micro: int, currency: str, key: str, at_ms: int, who: str
) -> int:
    plain = {"top_up": ledger.top_up, "grant": ledger.grant, "refund": ledger.refund}
    book = plain.get(given.kind)
    if book is not None:
        return book(db, given.tenant, micro, currency, key, given.note, at_ms, who)
    purse: Purse = "granted" if given.granted else "topped_up"
    return ledger.adjust(
        db, given.tenant, micro, currency, key, given.note, at_ms, who, purse=purse
    )


def _check_text(option: str, text: str, most: int) -> None:
    if len(text) > most or not text.isprintable():
        raise BadConfig(
            f"{option} has {len(text)} characters; at most {most}, all printable, are allowed"
        )


# --- statement ------------------------------------------------------------------------------------


def print_statement(tenant: str, days: Days, currency: str | None, where: Where) -> None:
    from_ms, to_ms = parse_days(days, now_ms())
    with open_accounts(where) as accounts:
        currency = currency or store.find_tenant(accounts.db, tenant).currency
        of = ledger.statement(accounts.db, tenant, currency, from_ms, to_ms)
    if where.as_json:
        print_json(of)
        return
    print_pairs(
        [
            ("tenant", of.tenant_id),
            ("period", f"{show_period(from_ms, to_ms)} (UTC+8)"),
            ("currency", of.currency),
            ("charged", show_micro(of.charged_micro)),
            ("not charged", f"{of.uncharged} requests that failed here" if of.uncharged else ""),
            ("still open", f"{of.open_requests} requests" if of.open_requests else ""),
        ]
    )
    print()
    _print_lines(of)
    if of.rules:
        print()
        _print_rules(of)


def _print_lines(of: Statement) -> None:
    rows: list[tuple[str, str, Purses, int]] = [("", "before", of.opening, 0)]
    rows += [
        (line.day, _what(line), line.after, line.granted_micro + line.topped_up_micro)
        for line in of.lines
    ]
    moved = show_column([change for *_rest, change in rows])
    granted = show_column([purses.granted_micro for *_rest, purses, _change in rows])
    topped_up = show_column([purses.topped_up_micro for *_rest, purses, _change in rows])
    print_table(
        ("day", "", ">change", ">granted", ">topped up"),
        [
            (day, what, moved[index] if index else "", granted[index], topped_up[index])
            for index, (day, what, _purses, _change) in enumerate(rows)
        ],
    )


def _what(line: StatementLine) -> str:
    if line.transfer is None:
        return f"{line.requests:,} requests"
    kind = line.transfer.kind.replace("_", "-")
    return f"{kind}: {line.transfer.note}" if line.transfer.note else kind


def _print_rules(of: Statement) -> None:
    for rule in of.rules:
        print(f"{rule.model}: {rule.quote.summary()}")
        amounts = [
            rounded(line.amount.numerator, line.amount.denominator) for line in lines_of(rule)
        ]
        shown = show_column([*amounts, rule.micro + rule.results_micro])
        rows = [
            (f"  {line.kind}", f"{line.tokens:,}", f"{line.free_tokens:,}", text)
            for line, text in zip(lines_of(rule), shown, strict=False)
        ]
        rows.append((f"  {rule.requests:,} requests, each rounded once", "", "", shown[-1]))
        print_table(("", ">tokens", ">free", f">{of.currency}"), rows)


# --- replay ---------------------------------------------------------------------------------------


def reprice(named: str, tenant: str | None, days: Days, where: Where) -> int:
    """The exit code."""
    tariff = read_tariff(named)
    from_ms, to_ms = parse_days(days, now_ms())
    with open_books(where) as db:
        rows = replay(db, tariff, Chosen(tenant_id=tenant, from_ms=from_ms, to_ms=to_ms))
    code = 1 if any(row.unpriced for row in rows) else 0
    if where.as_json:
        print_json(rows)
        return code
    was = show_column([row.charged_micro for row in rows])
    would = show_column([row.replayed_micro for row in rows])
    more = show_column([row.replayed_micro - row.charged_micro for row in rows])
    print_table(
        ("tenant", "model", ">requests", ">was", ">would be", ">difference", ""),
        [
            (
                row.tenant,
                row.model,
                f"{row.requests:,}",
                was[index],
                would[index],
                more[index],
                row.currency,
            )
            for index, row in enumerate(rows)
        ],
    )
    for row in rows:
        if row.unpriced:
            print(f"{row.unpriced:,} requests of {row.tenant} are without a price: {row.reason}")
    print(f"{show_period(from_ms, to_ms)} (UTC+8), by {tariff.prices.title or named}")
    return code


# --- export ---------------------------------------------------------------------------------------


def export(
    what: str,
    files: tuple[Path | None, Path | None],
    tenant: str | None,
    days: Days,
    where: Where,
) -> None:
    from_ms, to_ms = parse_days(days, now_ms())
    chosen = Chosen(tenant_id=tenant, from_ms=from_ms, to_ms=to_ms)
    if what not in ("usage", "entries"):
        raise BadConfig(f"{what[:80]!r} cannot be exported; choose usage or entries")
    csv, parquet = files
    columns = USAGE if what == "usage" else queries.POSTING_COLUMNS
    with open_books(where) as db:

        def rows() -> Iterator[list[Cell]]:
            return _usage(db, chosen) if what == "usage" else queries.postings(db, chosen)

        if csv is not None:
            print(f"{csv}: {save_csv(csv, columns, rows()):,} rows", file=sys.stderr)
        if parquet is not None:
            print(f"{parquet}: {save_parquet(parquet, columns, rows()):,} rows", file=sys.stderr)
        if csv is None and parquet is None:
            write_csv(sys.stdout, columns, rows())


def _usage(db: Database, chosen: Chosen) -> Iterator[list[Cell]]:
    for booked in usage_records(db, chosen):
        of = booked.record
        yield [
            booked.sequence,
            of.request_id,
            of.tenant_id,
            of.user_id,
            of.key_id,
            of.model,
            of.route,
            of.streamed,
            of.is_batch,
            of.started_ms,
            of.ended_ms,
            of.counts.prompt_tokens,
            of.counts.cached_tokens,
            of.counts.completion_tokens,
            of.counts.reasoning_tokens,
            of.outcome,
            booked.currency,
            booked.charged_micro,
            booked.tariff_digest,
            booked.rule_id,
        ]
