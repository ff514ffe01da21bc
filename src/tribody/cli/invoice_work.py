"""What `tribody invoice` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tribody.billing import queries
from tribody.billing.exports import save_text
from tribody.billing.invoice import Invoice
from tribody.billing.invoice_html import page
from tribody.billing.invoice_words import Language
from tribody.billing.money import show_column, show_micro
from tribody.cli.account_flags import Where
from tribody.cli.account_texts import parse_month
from tribody.cli.accounts import now_ms, open_books
from tribody.cli.tables import print_json, print_pairs, print_table
from tribody.core.errors import BadConfig
from tribody.tenancy import store

LANGUAGES: tuple[Language, ...] = get_args(Language)


@dataclass(frozen=True)
class InvoiceOptions:
    """As typed."""

    tenant: str
    month: str
    out: Path | None
    language: str
    seller: str
    buyer: str


def run(asked: InvoiceOptions, where: Where) -> None:
    language = next((one for one in LANGUAGES if one == asked.language), None)
    if language is None:
        raise BadConfig(
            f"--language {asked.language!r} is not known; choose one of {', '.join(LANGUAGES)}"
        )
    parse_month(asked.month)
    with open_books(where) as db:
        tenant = store.find_tenant(db, asked.tenant)
        found = queries.invoices(db, tenant.id, tenant.name, tenant.currency, asked.month, now_ms())
    if asked.out is not None:
        save_text(asked.out, page(found, language, asked.seller, asked.buyer))
    if where.as_json:
        print_json([_view(invoice) for invoice in found])
        return
    for invoice in found:
        _print(invoice)
    if asked.out is not None:
        print(f"written: {asked.out}")


def _view(invoice: Invoice) -> dict[str, object]:
    return {
        "number": invoice.number,
        "tenant_name": invoice.tenant_name,
        "month": invoice.month,
        "is_final": invoice.is_final,
        "total_micro": invoice.total_micro,
        "granted_micro": invoice.granted_micro,
        "topped_up_micro": invoice.topped_up_micro,
        "statement": invoice.statement,
        "uncharged": [
            {"outcome": row.outcome, "requests": row.requests} for row in invoice.uncharged
        ],
        "head": invoice.head,
    }


def _print(invoice: Invoice) -> None:
    of = invoice.statement
    print_pairs(
        [
            ("number", invoice.number),
            ("charged", f"{show_micro(invoice.total_micro)} {of.currency}"),
            ("granted", show_micro(invoice.granted_micro)),
            ("topped up", show_micro(invoice.topped_up_micro)),
            ("before", show_micro(of.opening.total_micro)),
            ("after", show_micro(of.closing.total_micro)),
            ("", "" if invoice.is_final else "provisional: the month is not over"),
        ]
    )
    if of.rules:
        money = show_column([rule.micro + rule.results_micro for rule in of.rules])
        print_table(
            ("model", "rule", ">requests", f">{of.currency}"),
            [
                (rule.model, rule.quote.summary(), f"{rule.requests:,}", amount)
                for rule, amount in zip(of.rules, money, strict=True)
            ],
        )
