"""The books kept a second time, from the entries alone, in memory.

It holds a balance for each account, a total for each tenant, key and period, and what is open; not
the requests that are done.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import msgspec

from tribody.billing import totals
from tribody.billing.entries import Entry, granted
from tribody.billing.pricing import NOTHING_USED, FreeUsed
from tribody.billing.records import Charge, Reservation
from tribody.billing.reservations import (
    held_change,
    place_of,
    read_reservation,
    request_keys,
    reservation_entry,
)
from tribody.billing.results import Decided, Offer, decide, decided_change, decision_entry
from tribody.billing.settlement import (
    charge_for,
    free_tokens,
    free_used_of,
    read_charge,
    recorded_change,
    settled_change,
    settlement_entry,
    usage_entry,
)
from tribody.billing.tariff_store import TariffEntry
from tribody.billing.tariffs import Tariff
from tribody.billing.transfers import Transfer, transfer_entry, transfer_key
from tribody.billing.usage import read_usage
from tribody.core.errors import BadTariff, NoPrice
from tribody.storage.database import Database, Value

MAX_PROBLEMS = 100


class Problems:
    """The first hundred, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= MAX_PROBLEMS:
            self.first.append(text)


class EntryRow(NamedTuple):
    """An entry as it stands in the database."""

    sequence: int
    kind: str
    at_ms: int
    tenant_id: str
    request_id: str
    detail: str
    postings: list[list[Value]]
    usage: list[Value] | None


class Books:
    """`follow` every entry, in their order; then the state is what the ledger's has to be."""

    def __init__(self, db: Database, problems: Problems) -> None:
        self.num_requests = 0
        self.num_charges = 0
        self.num_closed = 0
        self.num_results = 0
        self.balances: dict[tuple[str, str], int] = {}  # by account and currency
        self.totals: dict[tuple[str, str, str], tuple[int, ...]] = {}  # scope, period, currency
        self.open: dict[str, tuple[int, Reservation]] = {}
        self.free_used: dict[tuple[str, str, str], tuple[int, ...]] = {}
        self.offers: dict[str, Offer] = {}  # those that were not decided
        self.keys: dict[tuple[str, str], tuple[str, int]] = {}
        self.tariff_uses: list[tuple[int, str]] = []
        self._tariffs: dict[str, Tariff | None] = {}
        self._db = db
        self._problems = problems
        self._at = 0  # the entry that is followed

    def follow(self, entry: EntryRow) -> None:
        self._at = entry.sequence
        sums: dict[str, int] = {}
        try:
            self._follow(entry)
        except (msgspec.MsgspecError, ValueError) as error:
            self._wrong(f"its detail cannot be read: {error}")
        for account, currency, micro in cast(list[tuple[str, str, int]], entry.postings):
            key = account, currency
            self.balances[key] = self.balances.get(key, 0) + micro
            sums[currency] = sums.get(currency, 0) + micro
        for currency, rest in sums.items():
            if rest:
                self._wrong(f"its postings in {currency} sum to {rest}, not to 0")

    def _follow(self, entry: EntryRow) -> None:
        match entry.kind:
            case "reserve":
                self._reserve(entry, read_reservation(entry.detail))
            case "settle":
                self._settle(entry, read_charge(entry.detail))
            case "usage":
                self._usage(entry)
            case "accept" | "decline" | "expire":
                self._decide(entry, msgspec.json.decode(entry.detail, type=Decided))
            case "top_up" | "grant" | "refund" | "adjust":
                self._transfer(entry, msgspec.json.decode(entry.detail, type=Transfer))
            case "tariff":
                self._tariff(entry, msgspec.json.decode(entry.detail, type=TariffEntry))
            case _:
                self._wrong(f"there is no such kind as {entry.kind[:40]!r}")

    def _reserve(self, entry: EntryRow, reservation: Reservation) -> None:
        self.num_requests += 1
        self._expect(entry, reservation_entry(reservation))
        if reservation.request_id in self.open:
            self._wrong(f"the request {reservation.request_id} is reserved twice")
        self.open[reservation.request_id] = entry.sequence, reservation
        self._add(place_of(reservation), held_change(reservation))
        self._check_state(entry, reservation.node_id, opened=entry.sequence)
        if reservation.idempotency_key is not None:
            key = request_keys(reservation.tenant_id), reservation.idempotency_key
            self.keys[key] = reservation.body_digest or "", entry.sequence
        self._check_quote(reservation)

    def _settle(self, entry: EntryRow, charge: Charge) -> None:
        self.num_closed += 1
        self.num_charges += charge.micro > 0
        _opened, reservation = self.open.pop(entry.request_id, (0, None))
        if reservation is None:
            self._wrong(f"the request {entry.request_id} is settled without being open")
            return
        if entry.usage is None:
            self._wrong("it has no usage record")
            return
        record = read_usage((entry.sequence, *entry.usage)).record
        expected = charge_for(
            reservation,
            record.counts,
            record.outcome,
            entry.at_ms,
            free_used=self._free_used(reservation),
            granted_micro=self._granted(reservation.tenant_id, charge.currency),
        )
        if charge != expected:
            self._wrong(
                f"the request {entry.request_id} was charged {charge.micro} (of it "
                f"{charge.granted_micro} granted) where its usage record, its quote and what was "
                f"there come to {expected.micro} ({expected.granted_micro})"
            )
        self._expect(entry, settlement_entry(reservation, charge, entry.at_ms))
        self._add(place_of(reservation), settled_change(reservation, charge))
        self._check_state(entry, reservation.node_id, closed=entry.sequence)
        self._count_free(charge)
        if charge.result_micro:
            self._offer(entry, reservation, charge)

    def _usage(self, entry: EntryRow) -> None:
        self.num_requests += 1
        self.num_closed += 1
        if entry.usage is None:
            self._wrong("it has no usage record")
            return
        record = read_usage((entry.sequence, *entry.usage)).record
        self._expect(entry, usage_entry(record))
        self._add(*recorded_change(record))
        self._check_state(entry, "", closed=entry.sequence)

    def _decide(self, entry: EntryRow, decided: Decided) -> None:
        offer = self.offers.pop(entry.request_id, None)
        if offer is None:
            self._wrong(f"the request {entry.request_id} has no answer to be decided on")
            return
        expected = decide(offer, decided.decision, self._granted(offer.tenant_id, offer.currency))
        if decided != expected or decided.decision != entry.kind:
            self._wrong(f"it was booked as {decided} where it has to be {expected}")
        self._expect(entry, decision_entry(offer, decided, entry.at_ms))
        self._add(*decided_change(offer, decided))
        rows = self._db.rows(
            "SELECT decided, accepted FROM results WHERE sequence = ?", (offer.settled,)
        )
        if rows != [(entry.sequence, int(entry.kind == "accept"))]:
            self._wrong(f"the result of {entry.request_id} is kept as {rows}")

    def _transfer(self, entry: EntryRow, transfer: Transfer) -> None:
        self._expect(entry, transfer_entry(transfer))
        scope, body = transfer_key(transfer)
        if (scope, transfer.idempotency_key) in self.keys:
            self._wrong("its idempotency key had been used before")
        self.keys[scope, transfer.idempotency_key] = body, entry.sequence

    def _tariff(self, entry: EntryRow, use: TariffEntry) -> None:
        self._expect(entry, Entry("tariff", entry.at_ms, "", "", use))
        self.tariff_uses.append((entry.sequence, use.digest))
        if use.digest in self._tariffs:
            return
        rows = self._db.rows("SELECT text FROM tariffs WHERE digest = ?", (use.digest,))
        self._tariffs[use.digest] = None
        if not rows:
            self._wrong(f"the price list {use.digest} is not there")
            return
        try:
            tariff = Tariff.parse(str(rows[0][0]))
        except BadTariff as error:
            self._wrong(f"the price list {use.digest} cannot be read: {error}")
            return
        if tariff.digest != use.digest:
            self._wrong(f"the price list {use.digest} has been changed: it is {tariff.digest} now")
            return
        self._tariffs[use.digest] = tariff

    def _check_quote(self, reservation: Reservation) -> None:
        """Is the quote what the price list says, at that instant, to that tenant?"""
        quote = reservation.quote
        if quote is None:
            return
        if quote.tariff_digest not in self._tariffs:
            self._wrong(f"it is priced by a list that was not in use: {quote.tariff_digest}")
            return
        tariff = self._tariffs[quote.tariff_digest]
        if tariff is None:
            return  # said above
        try:
            expected = tariff.find(
                model=reservation.model,
                tenant_id=reservation.tenant_id,
                at_ms=reservation.at_ms,
                prompt_tokens=reservation.prompt_tokens,
                is_batch=reservation.is_batch,
                currency=quote.currency,
            )
        except NoPrice as error:
            self._wrong(f"its price list has no price for it: {error}")
            return
        if quote != expected:
            self._wrong(f"its quote is {quote.summary()}; the list says {expected.summary()}")

    def _offer(self, entry: EntryRow, reservation: Reservation, charge: Charge) -> None:
        self.num_results += 1
        self.offers[entry.request_id] = Offer(
            entry.sequence,
            entry.request_id,
            reservation.tenant_id,
            reservation.model,
            charge.currency,
            charge.result_micro,
            reservation.key_id,
            reservation.at_ms,
        )
        rows = self._db.rows(
            "SELECT request_id, tenant_id, model, currency, micro, until_ms FROM results "
            "WHERE sequence = ?",
            (entry.sequence,),
        )
        offer = self.offers[entry.request_id]
        if rows != [(*offer[1:6], charge.result_until_ms)]:
            self._wrong(f"the result of {entry.request_id} is kept as {rows}")

    def _check_state(
        self, entry: EntryRow, node_id: str, *, opened: int | None = None, closed: int | None = None
    ) -> None:
        rows = self._db.rows(
            "SELECT node_id, opened, closed FROM requests WHERE request_id = ?",
            (entry.request_id,),
        )
        kept = rows[0] if rows else (None, None, None)
        expected = (
            node_id,
            kept[1] if opened is None and entry.kind == "settle" else opened,
            kept[2] if closed is None else closed,
        )
        if kept != expected:
            self._wrong(f"the request {entry.request_id} is kept as {kept}, not as {expected}")

    def _expect(self, entry: EntryRow, expected: Entry) -> None:
        """Everything that follows from the detail."""
        found = entry.kind, entry.at_ms, entry.tenant_id, entry.request_id
        kind, at_ms, tenant_id, request_id, postings, usage = expected.values()
        if found != (kind, at_ms, tenant_id, request_id):
            self._wrong("its kind, instant, tenant or request is not that of its detail")
        if [tuple(posting) for posting in entry.postings] != postings:
            self._wrong("its postings are not those that follow from its detail")
        if entry.usage != usage:
            self._wrong("its usage record is not that which follows from its detail")

    def _granted(self, tenant_id: str, currency: str) -> int:
        return self.balances.get((granted(tenant_id), currency), 0)

    def _free_used(self, reservation: Reservation) -> FreeUsed:
        if reservation.quote is None or reservation.quote.free is None:
            return NOTHING_USED
        free = reservation.quote.free
        used = self.free_used.get((reservation.tenant_id, free.allowance_id, free.period))
        return NOTHING_USED if used is None else free_used_of(used)

    def _count_free(self, charge: Charge) -> None:
        tokens = free_tokens(charge)
        if charge.quote is not None and charge.quote.free is not None and any(tokens):
            free = charge.quote.free
            _add_to(self.free_used, (charge.tenant_id, free.allowance_id, free.period), tokens)

    def _add(self, place: totals.Place, change: totals.Change) -> None:
        for scope, period in place.totals():
            _add_to(self.totals, (scope, period, place.currency), change)

    def _wrong(self, text: str) -> None:
        self._problems.add(f"entry {self._at}: {text}")


def _add_to(
    sums: dict[tuple[str, str, str], tuple[int, ...]],
    key: tuple[str, str, str],
    change: tuple[int, ...],
) -> None:
    before = sums.get(key, (0,) * len(change))
    sums[key] = tuple(one + other for one, other in zip(before, change, strict=True))
