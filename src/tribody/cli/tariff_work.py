"""What `tribody tariff` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tribody.billing.money import show_micro
from tribody.billing.pricing import Priced, Quote, priced
from tribody.billing.tariff_store import (
    TariffUse,
    current_tariff,
    tariff_text,
    tariff_uses,
    use_tariff,
)
from tribody.billing.tariffs import SHIPPED, Tariff, shipped
from tribody.cli.account_flags import Where
from tribody.cli.account_texts import parse_instant, show_time
from tribody.cli.accounts import NoAccounts, now_ms, open_accounts
from tribody.cli.tables import print_json, print_pairs, print_table
from tribody.core.errors import BadConfig
from tribody.core.metering import Counts

MAX_FILE_BYTES = 4 << 20
SHOWN_DIGITS = 12  # of a digest in tables
LEAST_DIGITS = 4


@dataclass(frozen=True)
class Asked:
    """One request, as typed."""

    model: str
    prompt: int
    cached: int
    completion: int
    reasoning: int
    at: str | None
    tenant: str
    currency: str | None
    batch: bool


class PriceView(msgspec.Struct, frozen=True, kw_only=True):
    """As `--json` prints it."""

    quote: Quote
    priced: Priced


def read_file(path: Path) -> str:
    """Raises: BadConfig."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadConfig(f"{path}: is longer than the limit of {MAX_FILE_BYTES >> 20} MiB")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}") from error


def read_tariff(named: str) -> Tariff:
    """A file, or the name of an example that ships.  Raises: BadConfig."""
    if named in SHIPPED and not Path(named).exists():
        return Tariff.parse(shipped(named))
    return Tariff.parse(read_file(Path(named)))


def check(path: Path, *, as_json: bool) -> int:
    """The exit code."""
    tariff = Tariff.parse(read_file(path))
    problems = tariff.problems()
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        print_json({"digest": tariff.digest, "problems": problems})
        return 1 if errors else 0
    for problem in problems:
        print(f"{problem.severity}: {problem.text}")
    rules = len(tariff.prices.rules)
    what = f"{errors} errors" if errors else "every request that it names has one price"
    print(f"{path}: {rules} rules, {len(problems) - errors} warnings, {what}")
    return 1 if errors else 0


def use(path: Path, where: Where) -> None:
    text = read_file(path)
    with open_accounts(where, make=True) as accounts, accounts.db.transaction():
        uses = tariff_uses(accounts.db)
        before = uses[-1].digest if uses else None
        tariff = use_tariff(accounts.db, text, accounts.at_ms, accounts.who)
    if where.as_json:
        print_json({"digest": tariff.digest, "was_in_use": before == tariff.digest})
        return
    for problem in tariff.problems():
        print(f"{problem.severity}: {problem.text}")
    state = "was in use already" if before == tariff.digest else "is in use from now on"
    print(f"{tariff.prices.title or path.name} ({tariff.digest[:SHOWN_DIGITS]}) {state}")


def show(digest: str | None, where: Where) -> None:
    with open_accounts(where) as accounts:
        uses = tariff_uses(accounts.db)
        if not uses:
            raise BadConfig("no price list is in use; tribody tariff use FILE puts one in")
        text = tariff_text(accounts.db, _found(digest, uses))
    assert text is not None
    print(text, end="" if text.endswith("\n") else "\n")


def _found(digest: str | None, uses: list[TariffUse]) -> str:
    """The whole digest.  Raises: BadConfig."""
    if digest is None:
        return uses[-1].digest
    wanted = digest.lower()
    found = {one.digest for one in uses if one.digest.startswith(wanted)}
    if len(wanted) < LEAST_DIGITS or len(found) != 1:
        raise BadConfig(
            f"{digest[:80]!r} is the beginning of {len(found)} lists that were in use; give at "
            f"least {LEAST_DIGITS} characters of one (tribody tariff list)"
        )
    return found.pop()


def list_all(where: Where) -> None:
    stored: list[tuple[TariffUse, str]] = []
    try:
        with open_accounts(where) as accounts:
            for one in tariff_uses(accounts.db):
                text = tariff_text(accounts.db, one.digest)
                stored.append((one, Tariff.parse(text or "").prices.title))
    except NoAccounts:
        if where.data_dir is not None or where.database is not None:
            raise  # the examples are there without any accounts
    titles = {name: Tariff.parse(shipped(name)).prices.title for name in SHIPPED}
    if where.as_json:
        uses = [msgspec.structs.asdict(one) | {"title": title} for one, title in stored]
        print_json({"uses": uses, "examples": titles})
        return
    if stored:
        print_table(
            ("in use since", "digest", "who", "title", ""),
            [
                (
                    show_time(one.at_ms),
                    one.digest[:SHOWN_DIGITS],
                    one.who,
                    title,
                    "now" if index == len(stored) - 1 else "",
                )
                for index, (one, title) in enumerate(stored)
            ],
        )
        print()
    print_table(("example", "title"), list(titles.items()))


def example(name: str) -> None:
    if name not in SHIPPED:
        raise BadConfig(f"there is no example {name[:80]!r}; choose one of {', '.join(SHIPPED)}")
    print(shipped(name), end="")


def price(asked: Asked, named: str | None, where: Where) -> None:
    if named is not None:
        tariff: Tariff | None = read_tariff(named)
    else:
        with open_accounts(where) as accounts:
            tariff = current_tariff(accounts.db)
    if tariff is None:
        raise BadConfig("no price list is in use; name one: --file FILE")
    if asked.cached > asked.prompt:
        raise BadConfig(f"--cached {asked.cached} is above --prompt {asked.prompt}, which has it")
    if asked.reasoning > asked.completion:
        raise BadConfig(
            f"--reasoning {asked.reasoning} is above --completion {asked.completion}, which has it"
        )
    quote = tariff.find(
        model=asked.model,
        tenant_id=asked.tenant,
        at_ms=now_ms() if asked.at is None else parse_instant("--at", asked.at),
        prompt_tokens=asked.prompt,
        is_batch=asked.batch,
        currency=asked.currency,
    )
    counts = Counts(
        prompt_tokens=asked.prompt,
        cached_tokens=asked.cached,
        completion_tokens=asked.completion,
        reasoning_tokens=asked.reasoning,
    )
    found = priced(quote, counts)
    if where.as_json:
        print_json(PriceView(quote=quote, priced=found))
        return
    print_pairs(
        [
            ("rule", quote.rule_id),
            ("prices", quote.summary()),
            ("at", f"{show_time(quote.at_ms)} (UTC+8)"),
        ]
    )
    print_table(
        ("", ">tokens", ">of them free", ">per million"),
        [
            (line.kind, f"{line.tokens:,}", f"{line.free_tokens:,}", show_micro(line.price))
            for line in found.lines
        ],
    )
    print(f"{show_micro(found.total_micro, 6)} {found.currency}")
