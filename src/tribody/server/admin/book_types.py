"""What goes in and out of the admin API about the books: usage, statements, entries, prices."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tribody.billing.records import EntryKind
from tribody.server.admin.amounts import Amount
from tribody.server.admin.types import MAX_LISTED, Instant, Limit
from tribody.server.admin.verification import Verification
from tribody.tenancy.records import Currency

MAX_GROUPS = 100  # characters of `group_by`
Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller gets."""


class _Query(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind the `?`."""


# --- usage -----------------------------------------------------------------------------------


class UsageQuery(_Query, frozen=True, kw_only=True):
    """Requests that ended in [from_ms, to_ms).  `group_by`: names with commas between them."""

    tenant_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    from_ms: Instant | None = None
    to_ms: Instant | None = None
    group_by: Annotated[str, Meta(max_length=MAX_GROUPS)] = ""


class UsageShown(_Answer, frozen=True, kw_only=True):
    """One group; what it is not grouped by is "".  Days and months are Asia/Shanghai's."""

    day: str
    month: str
    tenant_id: str
    user_id: str
    key_id: str
    model: str
    route: str
    outcome: str
    currency: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    charged: Amount


class UsageList(_Answer, frozen=True, kw_only=True):
    data: list[UsageShown]


# --- statements ------------------------------------------------------------------------------


class StatementQuery(_Query, frozen=True, kw_only=True):
    """[from_ms, to_ms), by the instants of booking; from the beginning, and to now, if left out."""

    from_ms: Instant = 0
    to_ms: Instant | None = None
    currency: Currency | None = None


class PursesShown(_Answer, frozen=True, kw_only=True):
    total: Amount
    granted: Amount
    topped_up: Amount


class MovementShown(_Answer, frozen=True, kw_only=True):
    kind: str
    note: str
    at_ms: int
    who: str


class StatementLineShown(_Answer, frozen=True, kw_only=True):
    """A movement of money, or a day's usage until the next one (`movement` is null)."""

    day: str
    movement: MovementShown | None
    requests: int
    granted: Amount
    topped_up: Amount
    after: PursesShown


class KindShown(_Answer, frozen=True, kw_only=True):
    """`price`: of a million tokens."""

    kind: str
    tokens: int
    free_tokens: int
    price: Amount


class RuleShown(_Answer, frozen=True, kw_only=True):
    """All that one model used by one rule.  `rule`: its text, as an invoice prints it."""

    model: str
    rule_id: str
    rule: str
    tariff_digest: str
    is_batch: bool
    requests: int
    kinds: list[KindShown]
    charged: Amount
    results: int
    results_charged: Amount


class StatementShown(_Answer, frozen=True, kw_only=True):
    """`uncharged` requests ended by our failure; `open_requests` are not settled yet."""

    tenant_id: str
    currency: str
    from_ms: int
    to_ms: int
    opening: PursesShown
    lines: list[StatementLineShown]
    rules: list[RuleShown]
    charged: Amount
    closing: PursesShown
    uncharged: int
    open_requests: int


# --- the ledger ------------------------------------------------------------------------------


class EntriesQuery(_Query, frozen=True, kw_only=True):
    """Entries behind the one numbered `after`."""

    after: Sequence = 0
    limit: Limit = 100
    tenant_id: str | None = None
    kind: EntryKind | None = None


class PostingShown(_Answer, frozen=True, kw_only=True):
    account: str
    currency: str
    amount: Amount


class EntryShown(_Answer, frozen=True, kw_only=True):
    """`detail` is what was written, word for word: amounts in it are micro-units."""

    sequence: int
    kind: str
    at_ms: int
    tenant_id: str
    request_id: str
    detail: object
    postings: list[PostingShown]
    hash: str


class EntryList(_Answer, frozen=True, kw_only=True):
    data: list[EntryShown]
    has_more: bool


class ReservationsQuery(_Query, frozen=True, kw_only=True):
    tenant_id: str | None = None
    limit: Limit = MAX_LISTED


class ReservationShown(_Answer, frozen=True, kw_only=True):
    """A request that is under way, and the most that it may come to."""

    request_id: str
    node_id: str
    tenant_id: str
    key_id: str
    model: str
    route: str
    is_batch: bool
    at_ms: int
    held_tokens: int
    held: Amount
    currency: str


class ReservationList(_Answer, frozen=True, kw_only=True):
    data: list[ReservationShown]
    has_more: bool


class VerificationList(_Answer, frozen=True, kw_only=True):
    data: list[Verification]


# --- prices ----------------------------------------------------------------------------------


class TariffGiven(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`text`: TOML, as docs/tariffs.md describes it."""

    text: str


class ProblemShown(_Answer, frozen=True, kw_only=True):
    severity: Literal["error", "warning"]
    text: str


class TariffChecked(_Answer, frozen=True, kw_only=True):
    """`ok`: it can be used, with its warnings."""

    digest: str
    ok: bool
    problems: list[ProblemShown]


class TariffShown(_Answer, frozen=True, kw_only=True):
    digest: str
    text: str


class TariffUsed(_Answer, frozen=True, kw_only=True):
    digest: str
    at_ms: int
    who: str


class TariffHistory(_Answer, frozen=True, kw_only=True):
    """The newest first."""

    data: list[TariffUsed]


# --- the server ------------------------------------------------------------------------------


class StatusShown(_Answer, frozen=True, kw_only=True):
    """`writer_failure`: why nothing is written any more, or null.  Revisions: those of the
    database, and the one that the server's own copy of the accounts has, which is so old."""

    version: str
    node_id: str
    writer_failure: str | None
    tenancy_revision: int
    tariffs_revision: int
    tariff_digest: str | None
    directory_revision: int
    directory_is_stale: bool
    directory_age_ms: int
    entries: int
    open_reservations: int
