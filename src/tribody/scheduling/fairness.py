"""Whose request runs next where several tenants wait: start-time fair queueing (Goyal, Vin and
Cheng, 1996), with as many requests in service as the scheduler runs.

A tenant's virtual time is what its requests have cost, divided by their weights.  The tenant with
the least is served next, with the first of its requests that came.  The virtual time at which a
request was admitted is its start tag; those that run, or are to run again, stand in that order.

A request costs its prompt and its completion, in tokens.  What it asks for (`max_tokens`, of each
choice) is mostly far more than it takes, and a tenant that asks for much would wait for nothing.
So a completion is charged at what the tenant's usually are, or as it is once it is longer or has
ended; as long as nothing is known, as asked for.  A tenant that had nothing waiting is set forward
to the least that another that waits has been served, or, where nobody waits, to the most that
anybody was: it is not repaid for the time in which it wanted nothing, and nobody pays for having
been alone.

Two tenants that always have requests waiting thus get tokens as their weights are, up to what is
in service; a request of a tenant that had none waits for no queue of another's, however long.
Within a tenant, and with one tenant alone, the order is that of arrival.  Nobody starves: each
request served raises its tenant's time, and who comes starts no earlier than those that wait.

It trades a tenant's burst for the others' wait: the priorities, interactive before background, each
have tenants of their own.  Everything is a function of what it was told: a replay decides alike.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from tribody.scheduling.sequence import Job, Sequence

UNIT: Final = (
    1 << 20
)  # of virtual time: a token at weight 1; so quotients by weights are exact enough
USUAL_WINDOW: Final = 16.0  # requests over which the length of completions is averaged
MOST_IDLE: Final = 1024  # tenants without a request that are remembered


@dataclass(slots=True)
class _Tenant:
    """Its virtual time is `settled`, by requests that are over, and what the others are charged."""

    usual_tokens: float  # of a choice's completion
    settled: int = 0
    admitted: dict[int, Job] = field(default_factory=dict)  # by arrival; they may wait again
    waiting: list[Sequence] = field(default_factory=list)  # by arrival

    def time(self) -> int:
        jobs = self.admitted.values()
        return self.settled + sum(
            _cost(job, max(job.expected_tokens, job.completion_tokens)) for job in jobs
        )

    def served(self) -> int:
        """Its time without what is only expected."""
        jobs = self.admitted.values()
        return self.settled + sum(_cost(job, job.completion_tokens) for job in jobs)


def _cost(job: Job, completion_tokens: int) -> int:
    return (len(job.request.prompt_token_ids) + completion_tokens) * UNIT // job.request.weight


def _by_arrival(sequence: Sequence) -> tuple[int, int]:
    return sequence.job.arrival, sequence.choice


class FairQueue:
    """The sequences that wait for pages: `push`, look at the `first`, `admit` it.

    Every job that was pushed comes to its `end`.
    """

    def __init__(self) -> None:
        self._interactive, self._background = _Tenants(), _Tenants()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        """Tenant by tenant."""
        for tenants in (self._interactive, self._background):
            for tenant in tenants.busy.values():
                yield from tenant.waiting

    def push(self, sequence: Sequence) -> None:
        """One that comes, or was preempted.  Resumed requests that had begun go before those of
        other tenants that had not."""
        self._tenants(sequence.job).push(sequence)
        self._length += 1

    def first(self) -> Sequence | None:
        """Who is next."""
        return self._interactive.first() or self._background.first()

    def admit(self, sequence: Sequence) -> None:
        """It has pages and waits no more."""
        self._tenants(sequence.job).admit(sequence)
        self._length -= 1

    def end(self, job: Job) -> None:
        """All of it is over, what still waits too."""
        self._length -= self._tenants(job).end(job)

    def check(self) -> None:
        """The books agree with the lists."""
        assert self._length == sum(1 for _ in self)
        for tenants in (self._interactive, self._background):
            assert len(tenants.idle) <= MOST_IDLE
            assert not tenants.busy.keys() & tenants.idle.keys()
            for tenant in tenants.busy.values():
                assert tenant.admitted or tenant.waiting
                assert tenant.waiting == sorted(tenant.waiting, key=_by_arrival)
                jobs = sorted(tenant.admitted.values(), key=lambda job: job.arrival)
                places = [job.place for job in jobs]
                assert places == sorted(places), "a tenant's requests keep their order"

    def _tenants(self, job: Job) -> _Tenants:
        is_background = job.request.priority == "background"
        return self._background if is_background else self._interactive


class _Tenants:
    """Those of one priority; `busy` ones have a request here, waiting or admitted."""

    def __init__(self) -> None:
        self.busy: dict[str, _Tenant] = {}
        self.idle: OrderedDict[str, _Tenant] = OrderedDict()  # the one longest idle first
        self._latest = 0  # time of any tenant that became idle
        self._forgotten = 0  # of any that was forgotten: nobody begins earlier, or new ones, if
        # they never ended, would always come before those that have been served
        self._usual_tokens = inf  # of all tenants: where a new one begins

    def push(self, sequence: Sequence) -> None:
        name = sequence.job.request.tenant
        tenant = self.busy.get(name)
        if tenant is None:
            tenant = self.idle.pop(name, None) or _Tenant(self._usual_tokens)
            self.busy[name] = tenant
        if not tenant.waiting:
            tenant.settled += max(0, self._now() - tenant.time())
        if sequence.job.start_tag is None and sequence.job.announced:
            self._begin(tenant, sequence.job)
        insort(tenant.waiting, sequence, key=_by_arrival)

    def _now(self) -> int:
        """The time at which a tenant begins that has nothing waiting."""
        waiting = [tenant.served() for tenant in self.busy.values() if tenant.waiting]
        if waiting:
            return max(self._forgotten, min(waiting))
        return max([self._latest, *(tenant.served() for tenant in self.busy.values())])

    def first(self) -> Sequence | None:
        waiting = (tenant for tenant in self.busy.values() if tenant.waiting)
        tenant = min(waiting, key=self._turn, default=None)
        return tenant.waiting[0] if tenant is not None else None

    @staticmethod
    def _turn(tenant: _Tenant) -> tuple[bool, int, int]:
        """Those that were preempted come before those that have not begun."""
        job = tenant.waiting[0].job
        if job.start_tag is None:
            return True, tenant.time(), job.arrival
        return False, job.start_tag, job.arrival

    def admit(self, sequence: Sequence) -> None:
        job = sequence.job
        tenant = self.busy[job.request.tenant]
        tenant.waiting.remove(sequence)
        if job.start_tag is None:
            self._begin(tenant, job)

    @staticmethod
    def _begin(tenant: _Tenant, job: Job) -> None:
        """Its start tag is the time, moved to where its tenant's order of arrival allows it: a
        request may have been held back, and completions shorter than expected."""
        earlier = [j.place for j in tenant.admitted.values() if j.arrival < job.arrival]
        later = [j.place for j in tenant.admitted.values() if j.arrival > job.arrival]
        job.start_tag = min([max([tenant.time(), *earlier]), *later])
        sampling, n = job.request.sampling, job.request.n
        job.expected_tokens = n * int(min(sampling.max_tokens, tenant.usual_tokens))
        tenant.admitted[job.arrival] = job

    def end(self, job: Job) -> int:
        """Returns how many of its sequences had waited."""
        name = job.request.tenant
        tenant = self.busy.get(name)
        if tenant is None:
            return 0  # it was held back and never came
        waiting = [s for s in tenant.waiting if s.job is not job]
        num_gone = len(tenant.waiting) - len(waiting)
        tenant.waiting = waiting
        if tenant.admitted.pop(job.arrival, None) is not None:
            self._settle(tenant, job)
        if not (tenant.waiting or tenant.admitted):
            self._rest(name, tenant)
        return num_gone

    def _settle(self, tenant: _Tenant, job: Job) -> None:
        tenant.settled += _cost(job, job.completion_tokens)
        if job.request.sampling.max_tokens:
            tokens = job.completion_tokens / job.request.n
            tenant.usual_tokens = _mean(tenant.usual_tokens, tokens)
            self._usual_tokens = _mean(self._usual_tokens, tokens)

    def _rest(self, name: str, tenant: _Tenant) -> None:
        """The tenant has nothing here; what it had, and its usual length, are kept for a while."""
        del self.busy[name]
        self.idle[name] = tenant
        self._latest = max(self._latest, tenant.settled)
        if len(self.idle) > MOST_IDLE:
            _, longest_idle = self.idle.popitem(last=False)
            self._forgotten = max(self._forgotten, longest_idle.settled)


def _mean(mean: float, value: float) -> float:
    return value if mean == inf else mean + (value - mean) / USUAL_WINDOW
