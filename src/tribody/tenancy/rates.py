"""How many requests and tokens a key and its tenant may use in a minute.

A window slides: in no 60 seconds is more admitted than the limit says, whereas a bucket that fills
up again would allow twice as much.  It is kept in whole seconds, so what was used counts for 60 to
61 of them.  Tokens are taken as admission expects them and corrected when they are known: what was
too many is given back to the second they were taken in, what was too few counts from then on.

All in memory and of one server, for one thread; a restart forgets it.  Only keys and tenants that
were admitted in the last minute have a window, of at most 61 entries.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

from tribody.core.clock import Clock
from tribody.core.errors import Overloaded
from tribody.core.principal import Limits, Principal

Kind = Literal["requests", "tokens"]
Whose = Literal["key", "tenant"]
KINDS: tuple[Kind, ...] = ("requests", "tokens")

WINDOW_SECONDS = 60
_KEPT = WINDOW_SECONDS + 1  # after so many seconds from its beginning a second is in no window


@dataclass(frozen=True, slots=True)
class Room:
    """What one limit still allows, and after how many seconds all of it."""

    limit: int
    remaining: int
    reset_seconds: int


@dataclass(frozen=True, slots=True)
class Remaining:
    """The tighter of the key's and the tenant's limits, for x-ratelimit-*; None = no limit."""

    requests: Room | None = None
    tokens: Room | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit is in the way.  `retry_after`: seconds until the request fits, if nobody else
    comes; None: it is larger than the limit, and never will."""

    whose: Whose
    kind: Kind
    limit: int
    retry_after: int | None


class RateLimited(Overloaded):
    """A limit of the minute is reached; of several, the one that is in the way longest."""

    def __init__(self, refusal: Refusal, remaining: Remaining) -> None:
        remedy = (
            "this request alone needs more: make it shorter or ask for fewer tokens"
            if refusal.retry_after is None
            else f"send it again in {refusal.retry_after} s"
        )
        super().__init__(
            f"Rate Limit Reached: this {refusal.whose} may use {refusal.limit} {refusal.kind} "
            f"per minute; {remedy}."
        )
        self.refusal = refusal
        self.remaining = remaining


@dataclass(slots=True)
class Taken:
    """One admitted request's part of the windows, until it is settled."""

    remaining: Remaining
    names: tuple[str, ...]
    second: int
    tokens: int
    is_settled: bool = False


@dataclass(slots=True)
class _Use:
    second: int
    requests: int
    tokens: int

    def of(self, kind: Kind) -> int:
        return self.requests if kind == "requests" else self.tokens


class _Window:
    """The last seconds' use by one key or one tenant, and its sums."""

    __slots__ = ("requests", "tokens", "uses")

    def __init__(self) -> None:
        self.uses: deque[_Use] = deque()  # by second; at most _KEPT of them
        self.requests = 0
        self.tokens = 0

    def forget(self, second: int) -> None:
        """Leave out what no window that ends in `second` holds."""
        while self.uses and self.uses[0].second + _KEPT <= second:
            gone = self.uses.popleft()
            self.requests -= gone.requests
            self.tokens -= gone.tokens

    def add(self, second: int, requests: int, tokens: int) -> None:
        """Add to the latest second's use."""
        if not self.uses or self.uses[-1].second < second:
            self.uses.append(_Use(second, 0, 0))
        self._change(self.uses[-1], requests, tokens)

    def take_from(self, second: int, requests: int, tokens: int) -> None:
        """Take from the use of a second, if that still counts."""
        for use in reversed(self.uses):  # it was not long ago, as a rule
            if use.second == second:
                self._change(use, -requests, -tokens)
                return

    def _change(self, use: _Use, requests: int, tokens: int) -> None:
        use.requests += requests
        use.tokens += tokens
        self.requests += requests
        self.tokens += tokens

    def used(self, kind: Kind) -> int:
        return self.requests if kind == "requests" else self.tokens

    def seconds_until(self, kind: Kind, most: int, now: float) -> int:
        """Until no more than `most` is used, if nothing is added."""
        used, when = self.used(kind), now
        for use in self.uses:
            if used <= most:
                break
            used -= use.of(kind)
            when = use.second + _KEPT
        return math.ceil(when - now)

    def seconds_until_whole(self, kind: Kind, now: float) -> int:
        """Until nothing is used, if nothing is added."""
        last = next((use for use in reversed(self.uses) if use.of(kind)), None)
        return 0 if last is None else math.ceil(last.second + _KEPT - now)


@dataclass(frozen=True, slots=True)
class _Limited:
    """A key or a tenant with a limit of the minute, and its window."""

    whose: Whose
    name: str
    limits: Limits
    window: _Window

    def limit(self, kind: Kind) -> int:
        limits = self.limits
        return limits.requests_per_minute if kind == "requests" else limits.tokens_per_minute


class Rates:
    """The windows of all keys and tenants."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # the last added to at the end

    def __len__(self) -> int:
        """Windows that are kept."""
        return len(self._windows)

    def take(self, principal: Principal, tokens: int) -> Taken:
        """Count a request that may use so many tokens, with its key and with its tenant.

        Raises: RateLimited; then it is counted with neither.
        """
        assert tokens >= 0
        now = self._clock.now()
        second = math.floor(now)
        self._forget_idle(second)
        all_limited = self._limited(principal)
        for limited in all_limited:
            limited.window.forget(second)
        refusals = [
            refusal
            for limited in all_limited
            for kind in KINDS
            if (refusal := _refusal(limited, kind, 1 if kind == "requests" else tokens, now))
        ]
        if refusals:
            raise RateLimited(max(refusals, key=_wait), _remaining(all_limited, now))
        for limited in all_limited:
            self._add(limited.name, limited.window, second, 1, tokens)
        names = tuple(limited.name for limited in all_limited)
        return Taken(_remaining(all_limited, now), names, second, tokens)

    def correct(self, taken: Taken, tokens: int) -> None:
        """What the request really used.  Once: what is said of it later changes nothing."""
        if self._is_first(taken):
            second = math.floor(self._clock.now())
            for name in taken.names:
                window = self._windows.get(name)
                if tokens > taken.tokens:
                    self._add(name, window or _Window(), second, 0, tokens - taken.tokens)
                elif window is not None:
                    window.take_from(taken.second, 0, taken.tokens - tokens)

    def give_back(self, taken: Taken) -> None:
        """The request did not run, so it counts nowhere.  Once, as `correct`."""
        if self._is_first(taken):
            for name in taken.names:
                window = self._windows.get(name)
                if window is not None:
                    window.take_from(taken.second, 1, taken.tokens)

    @staticmethod
    def _is_first(taken: Taken) -> bool:
        is_first, taken.is_settled = not taken.is_settled, True
        return is_first

    def _limited(self, principal: Principal) -> list[_Limited]:
        """None is kept yet that was not before."""
        both: list[tuple[Whose, str, Limits]] = [
            ("key", f"key/{principal.key_id}", principal.key_limits),
            ("tenant", f"tenant/{principal.tenant_id}", principal.tenant_limits),
        ]
        return [
            _Limited(whose, name, limits, self._windows.get(name) or _Window())
            for whose, name, limits in both
            if limits.requests_per_minute or limits.tokens_per_minute
        ]

    def _add(self, name: str, window: _Window, second: int, requests: int, tokens: int) -> None:
        window.add(second, requests, tokens)
        self._windows[name] = window
        self._windows.move_to_end(name)

    def _forget_idle(self, second: int) -> None:
        """They stand in the order in which they were last added to."""
        while self._windows:
            name, window = next(iter(self._windows.items()))
            window.forget(second)
            if window.uses:
                return
            del self._windows[name]


def _refusal(limited: _Limited, kind: Kind, wanted: int, now: float) -> Refusal | None:
    window, limit = limited.window, limited.limit(kind)
    if not limit or window.used(kind) + wanted <= limit:
        return None
    wait = window.seconds_until(kind, limit - wanted, now) if wanted <= limit else None
    return Refusal(limited.whose, kind, limit, wait)


def _wait(refusal: Refusal) -> float:
    return math.inf if refusal.retry_after is None else refusal.retry_after


def _remaining(all_limited: list[_Limited], now: float) -> Remaining:
    return Remaining(_tightest(all_limited, "requests", now), _tightest(all_limited, "tokens", now))


def _tightest(all_limited: list[_Limited], kind: Kind, now: float) -> Room | None:
    """The limit of which least remains, and of equal ones the one that is whole again last."""
    rooms = [
        Room(
            limit,
            max(limit - limited.window.used(kind), 0),
            limited.window.seconds_until_whole(kind, now),
        )
        for limited in all_limited
        if (limit := limited.limit(kind))
    ]
    return min(rooms, key=lambda room: (room.remaining, -room.reset_seconds), default=None)
