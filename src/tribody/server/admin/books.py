"""/admin/usage, statements and the ledger: what was used, what it came to, and how it is booked."""

from __future__ import annotations

from typing import get_args

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing import ledger
from tribody.billing.entry_pages import WrittenEntry, written_entries
from tribody.billing.pricing import Kind
from tribody.billing.records import Reservation
from tribody.billing.reports import Group, UsageRow
from tribody.billing.statements import Purses, RuleSum, Statement, StatementLine
from tribody.core.errors import BadRequest, BadValue
from tribody.server.admin.amounts import amount_text
from tribody.server.admin.book_types import (
    EntriesQuery,
    EntryList,
    EntryShown,
    KindShown,
    MovementShown,
    PostingShown,
    PursesShown,
    ReservationList,
    ReservationShown,
    ReservationsQuery,
    RuleShown,
    StatementLineShown,
    StatementQuery,
    StatementShown,
    UsageList,
    UsageQuery,
    UsageShown,
    VerificationList,
)
from tribody.server.admin.state import answered, no_such, parameters_of, state_of
from tribody.server.admin.tenants import checked_id, tenant_of
from tribody.storage.database import Database
from tribody.tenancy import store

GROUPS: tuple[Group, ...] = get_args(Group)
MAX_USAGE_ROWS = 10_000  # in one answer: about 4 MB


# --- usage -----------------------------------------------------------------------------------


async def usage(http: HttpRequest) -> Response:
    """GET: sums of what was used."""
    query = parameters_of(http, UsageQuery)
    groups = _groups(query.group_by)
    chosen = ledger.Chosen(
        tenant_id=query.tenant_id,
        user_id=query.user_id,
        key_id=query.key_id,
        model=query.model,
        from_ms=query.from_ms,
        to_ms=query.to_ms,
    )
    rows = await state_of(http).read(lambda db: ledger.usage_rows(db, groups, chosen))
    if len(rows) > MAX_USAGE_ROWS:
        raise BadRequest(
            f"There are {len(rows)} rows; at most {MAX_USAGE_ROWS} are sent. Ask for less time, or "
            "group by less.",
            param="group_by",
        )
    return answered(UsageList(data=[_shown_usage(row) for row in rows]))


def _groups(text: str) -> list[Group]:
    """Raises: BadValue on a name that is none, or comes twice."""
    known: dict[str, Group] = {group: group for group in GROUPS}
    names = [name.strip() for name in text.split(",")] if text else []
    if not known.keys() >= set(names) or len(set(names)) != len(names):
        raise BadValue(
            f"group_by {text[:40]!r} must be names of {', '.join(GROUPS)}, each once, with commas "
            "between them.",
            param="group_by",
        )
    return [known[name] for name in names]


def _shown_usage(row: UsageRow) -> UsageShown:
    return UsageShown(
        day=row.day,
        month=row.month,
        tenant_id=row.tenant,
        user_id=row.user,
        key_id=row.key,
        model=row.model,
        route=row.route,
        outcome=row.outcome,
        currency=row.currency,
        requests=row.requests,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=row.reasoning_tokens,
        charged=amount_text(row.charged_micro),
    )


# --- statements ------------------------------------------------------------------------------


async def statement(http: HttpRequest) -> Response:
    """GET: what was there, what came and went, what is left."""
    state, tenant_id = state_of(http), tenant_of(http)
    query = parameters_of(http, StatementQuery)
    to_ms = state.now_ms() + 1 if query.to_ms is None else query.to_ms
    if to_ms < query.from_ms:
        raise BadRequest(
            f"to_ms ({to_ms}) is before from_ms ({query.from_ms}); give a later one.",
            param="to_ms",
        )

    def read(db: Database) -> Statement:
        currency = query.currency or store.find_tenant(db, tenant_id).currency
        return ledger.statement(db, tenant_id, currency, query.from_ms, to_ms)

    return answered(_shown_statement(await state.read(read)))


def _shown_statement(made: Statement) -> StatementShown:
    return StatementShown(
        tenant_id=made.tenant_id,
        currency=made.currency,
        from_ms=made.from_ms,
        to_ms=made.to_ms,
        opening=_shown_purses(made.opening),
        lines=[_shown_line(line) for line in made.lines],
        rules=[_shown_rule(rule) for rule in made.rules],
        charged=amount_text(made.charged_micro),
        closing=_shown_purses(made.closing),
        uncharged=made.uncharged,
        open_requests=made.open_requests,
    )


def _shown_purses(purses: Purses) -> PursesShown:
    return PursesShown(
        total=amount_text(purses.total_micro),
        granted=amount_text(purses.granted_micro),
        topped_up=amount_text(purses.topped_up_micro),
    )


def _shown_line(line: StatementLine) -> StatementLineShown:
    transfer = line.transfer
    movement = None
    if transfer is not None:
        movement = MovementShown(
            kind=transfer.kind, note=transfer.note, at_ms=transfer.at_ms, who=transfer.who
        )
    return StatementLineShown(
        day=line.day,
        movement=movement,
        requests=line.requests,
        granted=amount_text(line.granted_micro),
        topped_up=amount_text(line.topped_up_micro),
        after=_shown_purses(line.after),
    )


def _shown_rule(rule: RuleSum) -> RuleShown:
    kinds: tuple[Kind, ...] = get_args(Kind)
    return RuleShown(
        model=rule.model,
        rule_id=rule.quote.rule_id,
        rule=rule.quote.summary(),
        tariff_digest=rule.quote.tariff_digest,
        is_batch=rule.is_batch,
        requests=rule.requests,
        kinds=[
            KindShown(
                kind=kind,
                tokens=rule.kinds[kind].tokens,
                free_tokens=rule.kinds[kind].free_tokens,
                price=amount_text(rule.kinds[kind].price),
            )
            for kind in kinds
            if kind in rule.kinds
        ],
        charged=amount_text(rule.micro),
        results=rule.results,
        results_charged=amount_text(rule.results_micro),
    )


# --- the ledger ------------------------------------------------------------------------------


async def entries(http: HttpRequest) -> Response:
    """GET: as they were written, in their order."""
    query = parameters_of(http, EntriesQuery)
    tenant_id = None if query.tenant_id is None else checked_id("tenant", query.tenant_id)

    def read(db: Database) -> list[WrittenEntry]:
        return written_entries(
            db, after=query.after, most=query.limit + 1, tenant_id=tenant_id, kind=query.kind
        )

    found = await state_of(http).read(read)
    listed = [_shown_entry(entry) for entry in found[: query.limit]]
    return answered(EntryList(data=listed, has_more=len(found) > query.limit))


def _shown_entry(entry: WrittenEntry) -> EntryShown:
    return EntryShown(
        sequence=entry.sequence,
        kind=entry.kind,
        at_ms=entry.at_ms,
        tenant_id=entry.tenant_id,
        request_id=entry.request_id,
        detail=msgspec.json.decode(entry.detail),
        postings=[
            PostingShown(account=one.account, currency=one.currency, amount=amount_text(one.micro))
            for one in entry.postings
        ],
        hash=entry.hash,
    )


async def reservations(http: HttpRequest) -> Response:
    """GET: what is held for requests under way, the oldest first."""
    query = parameters_of(http, ReservationsQuery)
    tenant_id = None if query.tenant_id is None else checked_id("tenant", query.tenant_id)
    found = await state_of(http).read(ledger.open_reservations)
    wanted = [one for one in found if tenant_id in (None, one.tenant_id)]
    listed = [_shown_reservation(one) for one in wanted[: query.limit]]
    return answered(ReservationList(data=listed, has_more=len(wanted) > query.limit))


def _shown_reservation(one: Reservation) -> ReservationShown:
    return ReservationShown(
        request_id=one.request_id,
        node_id=one.node_id,
        tenant_id=one.tenant_id,
        key_id=one.key_id,
        model=one.model,
        route=one.route,
        is_batch=one.is_batch,
        at_ms=one.at_ms,
        held_tokens=one.worst_tokens,
        held=amount_text(one.worst_micro),
        currency="" if one.quote is None else one.quote.currency,
    )


async def start_verification(http: HttpRequest) -> Response:
    """POST: check the whole ledger; while one does, that one."""
    return answered(state_of(http).verifier.start())


async def list_verifications(http: HttpRequest) -> Response:
    """GET: the latest, the newest first."""
    return answered(VerificationList(data=state_of(http).verifier.all()))


async def show_verification(http: HttpRequest) -> Response:
    """GET: how far it is, or what it found."""
    found = state_of(http).verifier.find(http.path_params["verification_id"])
    if found is None:
        raise no_such("verification")
    return answered(found)
