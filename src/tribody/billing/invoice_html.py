"""An invoice as one HTML page that prints on A4; nothing is fetched and nothing runs.

Amounts of lines are printed exactly where twelve places behind the point are enough, which prices
of whole micro-units per million tokens are; a rule's rounding is what is left of its sum, so the
printed column adds up whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from html import escape

from tribody.billing.invoice import Invoice, InvoiceLine, lines_of, printable
from tribody.billing.invoice_words import WORDS, Language, Words
from tribody.billing.money import MICRO, show_micro
from tribody.billing.statements import RuleSum

MIN_PLACES, MAX_PLACES = 6, 12
CHINA = timezone(timedelta(hours=8))
SIGN = {"CNY": "¥", "USD": "$"}

PAGE_BREAK = '<div style="break-after:page"></div>'
STYLE = (
    "@page{size:A4;margin:18mm 16mm}"
    "body{font:10.5pt/1.45 system-ui,'Noto Sans CJK SC','PingFang SC','Microsoft YaHei',sans-serif;"
    "color:#111;max-width:178mm;margin:8mm auto}"
    "h1{font-size:20pt;margin:0 0 4mm}h2{font-size:12pt;margin:7mm 0 2mm;break-after:avoid}"
    "h3{font-size:10.5pt;margin:5mm 0 1mm;break-after:avoid}p{margin:0 0 1.5mm}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "thead{display:table-header-group}tr{break-inside:avoid}"
    "td,th{padding:1mm 2mm;text-align:right;border-bottom:.2mm solid #bbb;vertical-align:top}"
    "td:first-child,th:first-child{text-align:left}"
    ".sum td{font-weight:bold;border-bottom:.5mm solid #111}"
    ".plain td{border:0;padding:.4mm 2mm;text-align:left}"
    ".plain td:first-child{width:34mm;padding-left:0}"
    ".rule{break-inside:avoid}.small{font-size:8.5pt;color:#444;overflow-wrap:anywhere}"
    ".provisional{border:.4mm solid #b00;padding:2mm;color:#b00}"
    "@media print{body{margin:0;max-width:none}}"
)


def page(invoices: Iterable[Invoice], language: Language, seller: str = "", buyer: str = "") -> str:
    """`seller`, `buyer`: lines of text printed as they are."""
    words = WORDS[language]
    found = list(invoices)
    title = f"{words.title} {found[0].number}"
    parts = [_invoice(invoice, words, seller, buyer) for invoice in found]
    return (
        f'<!doctype html><html lang="{words.language}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"{PAGE_BREAK.join(parts)}</html>\n"
    )


def _invoice(invoice: Invoice, words: Words, seller: str, buyer: str) -> str:
    facts = [
        (words.number, invoice.number),
        (words.seller, seller),
        (words.buyer, buyer or invoice.tenant_name),
        (words.tenant, invoice.statement.tenant_id),
        (words.period, f"{_day(invoice.statement.from_ms)} – {_day(invoice.statement.to_ms - 1)}"),
        (words.made, f"{_time(invoice.made_ms):%Y-%m-%d %H:%M:%S} (UTC+8)"),
    ]
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{_lines(text)}</td></tr>" for name, text in facts if text
    )
    warning = ""
    if not invoice.is_final:
        warning = f'<p class="provisional">{escape(words.provisional)}</p>'
    notes = "".join(
        f"<p>{escape(note.format(sequence=invoice.head.sequence, hash=invoice.head.hash))}</p>"
        for note in words.footnotes
    )
    return (
        f'<h1>{escape(words.title)}</h1>{warning}<table class="plain">{lines}</table>'
        f"{_summary(invoice, words)}{_charges(invoice, words)}{_balance(invoice, words)}"
        f'{_uncharged(invoice, words)}<div class="small" style="margin-top:7mm">{notes}</div>'
    )


def _summary(invoice: Invoice, words: Words) -> str:
    rows = [
        (words.charged, invoice.total_micro),
        (words.from_granted, invoice.granted_micro),
        (words.from_topped_up, invoice.topped_up_micro),
    ]
    if invoice.statement.closing.total_micro < 0:
        rows.append((words.due, -invoice.statement.closing.total_micro))
    currency = invoice.statement.currency
    sign = SIGN.get(currency, "")
    return f"<h2>{escape(words.summary)}</h2>" + _table(
        ("", currency),
        [[name, f"{sign} {show_micro(micro, 6)}"] for name, micro in rows],
        sums=(0,),
    )


def _charges(invoice: Invoice, words: Words) -> str:
    head = f"<h2>{escape(words.charges)}</h2>"
    of = invoice.statement
    if not of.rules:
        return f"{head}<p>{escape(words.no_charges)}</p>"
    rules = "".join(_rule(rule, words) for rule in of.rules)
    total = _table(
        ("", of.currency), [[words.total, show_micro(invoice.total_micro, 6)]], sums=(0,)
    )
    return f"{head}{rules}<div style='margin-top:4mm'>{total}</div>"


def _rule(rule: RuleSum, words: Words) -> str:
    lines = lines_of(rule)
    places = max((_places(line.amount) for line in lines), default=MIN_PLACES)
    amounts = [printable(line.amount, places) for line in lines]
    rows = [
        [
            words.kinds[line.kind],
            f"{line.tokens:,}",
            f"{line.free_tokens:,}" if line.free_tokens else "",
            _price(line, rule, words),
            _amount(amount, places),
        ]
        for line, amount in zip(lines, amounts, strict=True)
    ]
    total = rule.micro + rule.results_micro
    left = total - sum(amounts, Fraction(0))
    rows.append(
        [words.rounding.format(num=f"{rule.requests:,}"), "", "", "", _amount(left, places)]
    )
    rows.append([words.rule_total, "", "", "", _amount(Fraction(total), places)])
    quote = rule.quote
    source = words.price_list.format(digest=quote.tariff_digest[:16], rule=quote.rule_id)
    requests = words.requests.format(num=f"{rule.requests:,}")
    return (
        f'<div class="rule"><h3>{escape(rule.model)}</h3>'
        f'<p>{escape(quote.summary())}</p><p class="small">{escape(source)}; {escape(requests)}</p>'
        f"{_table(words.columns, rows, sums=(len(rows) - 1,))}</div>"
    )


def _price(line: InvoiceLine, rule: RuleSum, words: Words) -> str:
    price = show_micro(line.price)
    quote = rule.quote
    if quote.numerator == quote.denominator or line.kind == "result":
        return price
    return f"{price} × {quote.numerator}/{quote.denominator}"


def _balance(invoice: Invoice, words: Words) -> str:
    before, after = invoice.statement.opening, invoice.statement.closing
    rows = [(words.opening, before.granted_micro, before.topped_up_micro)]
    for line in invoice.statement.lines:
        if line.transfer is not None:
            name = f"{words.transfers[line.transfer.kind]}, {line.day}"
            if line.transfer.note:
                name += f": {line.transfer.note}"
            rows.append((name, line.granted_micro, line.topped_up_micro))
    rows.append((words.charges_row, -invoice.granted_micro, -invoice.topped_up_micro))
    rows.append((words.closing, after.granted_micro, after.topped_up_micro))
    shown = [
        [name, *(show_micro(micro, 6) for micro in (granted, paid, granted + paid))]
        for name, granted, paid in rows
    ]
    head = f"<h2>{escape(words.balance)}</h2>"
    return head + _table(words.balance_columns, shown, sums=(len(shown) - 1,))


def _uncharged(invoice: Invoice, words: Words) -> str:
    if not invoice.uncharged:
        return ""
    rows = [
        [
            words.outcomes[row.outcome],
            f"{row.requests:,}",
            f"{row.prompt_tokens + row.completion_tokens:,}",
        ]
        for row in invoice.uncharged
    ]
    return f"<h2>{escape(words.uncharged)}</h2>{_table(words.uncharged_columns, rows)}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]], sums: tuple[int, ...] = ()) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(
        ('<tr class="sum">' if index in sums else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _places(amount: Fraction) -> int:
    """Behind the point of the currency, for an exact amount in micro-units; at most MAX_PLACES."""
    for places in range(MIN_PLACES, MAX_PLACES):
        if (amount * 10**places / MICRO).denominator == 1:
            return places
    return MAX_PLACES


def _amount(amount: Fraction, places: int) -> str:
    """`1,234.567890`; the amount has no more places."""
    scaled = amount * 10**places / MICRO
    assert scaled.denominator == 1, "printable() has been applied"
    whole, part = divmod(abs(int(scaled)), 10**places)
    return f"{'-' if scaled < 0 else ''}{whole:,}.{part:0{places}d}"


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.splitlines())


def _time(at_ms: int) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(CHINA)


def _day(at_ms: int) -> str:
    return f"{_time(at_ms):%Y-%m-%d}"
