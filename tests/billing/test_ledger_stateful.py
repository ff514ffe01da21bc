"""Any sequence of calls: the ledger does what a naive one does, and verifies after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.billing.ledger_cases import NOON_MS, database, reservation, usage
from tests.billing.reference_ledger import Reference
from tribody.billing import ledger, periods
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadInput
from tribody.core.metering import Counts
from tribody.core.principal import Limits

TEXT = """
title = "Stateful"
currency = "CNY"
[free.trial]
hit = 300
miss = 200
output = 250
[[rule]]
id = "yuan"
models = ["free"]
hit = "0.7"
miss = "3.3"
output = "16.1"
free = "trial"
[[rule]]
id = "judge"
models = ["judge"]
hit = "0.5"
miss = "0.5"
output = "0.5"
result = "0.0015"
accept_seconds = 60
[[rule]]
id = "dollars"
models = ["dollars"]
currency = "USD"
hit = "0.5"
miss = "2.5"
output = "9.5"
"""
TARIFF = Tariff.parse(TEXT)
MODELS: dict[str, dict[str, Any]] = {
    "free": {
        "currency": "CNY",
        "prices": {"hit": 700_000, "miss": 3_300_000, "output": 16_100_000},
        "free": {"hit": 300, "miss": 200, "output": 250},
        "result_price": 0,
    },
    "judge": {
        "currency": "CNY",
        "prices": {"hit": 500_000, "miss": 500_000, "output": 500_000},
        "free": {},
        "result_price": 1500,
    },
    "dollars": {
        "currency": "USD",
        "prices": {"hit": 500_000, "miss": 2_500_000, "output": 9_500_000},
        "free": {},
        "result_price": 0,
    },
}
MIDNIGHT_MS = periods.month_end_ms(NOON_MS)
TENANTS = st.sampled_from(["acme", "zeta"])
API_KEYS = st.sampled_from(["key-1", "key-2"])
NODES = st.sampled_from(["node-1", "node-2"])
PICKS = st.integers(0, 99)
OFTEN = st.sampled_from([True, True, True, False])
SELDOM = st.integers(0, 9).map(lambda n: n == 9)
NAMES = st.integers(0, 99).map("request {}".format)
KEYS = st.integers(0, 12).map("key {}".format)
INSTANTS = st.sampled_from(
    [MIDNIGHT_MS + ms for ms in (-periods.DAY_MS, -60_001, -60_000, -1, 0, 59_999, 60_000)]
)
AMOUNTS = st.integers(1, 20_000)
OUTCOMES = st.sampled_from(
    ["finished", "finished", "finished", "disconnect", "timeout", "error", "restart", "drain"]
)
CAPS = st.dictionaries(
    st.tuples(
        st.sampled_from(["tenant", "api_key"]),
        st.sampled_from(["tokens", "micro"]),
        st.sampled_from([10, 7]),
    ),
    st.integers(1, 9000),
    max_size=2,
)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Prompt, of it cached, completion."""
    prompt = draw(st.integers(0, 400))
    return prompt, draw(st.integers(0, prompt)), draw(st.integers(0, 300))


def limits(caps: dict[Any, int], scope: str) -> Limits:
    names = {("tokens", 10): "tokens_per_day", ("tokens", 7): "tokens_per_month"}
    names |= {("micro", 10): "micro_per_day", ("micro", 7): "micro_per_month"}
    return Limits(**{names[unit, n]: cap for (of, unit, n), cap in caps.items() if of == scope})


class AgainstTheReference(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.db = database()
        self.reference = Reference()

    def teardown(self) -> None:
        self.db.close()

    def outcome(self, call: Any, *arguments: Any) -> Any:
        """What it returns, or the name of its refusal."""
        try:
            with self.db.transaction():
                return call(self.db, *arguments)
        except BadInput as error:
            return type(error).__name__

    def one_of(self, pick: int, wanted: Callable[[dict[str, Any]], bool]) -> str:
        """The name of a request that is so, if there is one; else of any, or an unknown one."""
        requests = self.reference.requests
        names = [name for name, q in requests.items() if wanted(q)] or [*requests, "unknown"]
        return names[pick % len(names)]

    @initialize()
    def begin(self) -> None:
        with self.db.transaction():
            ledger.use_tariff(self.db, TEXT, NOON_MS, "test")
        for tenant in ("acme", "zeta"):
            for currency in ("CNY", "USD"):
                self.transfer(tenant, currency, "top_up", 20_000, False, currency, NOON_MS)
                self.transfer(tenant, f"{currency} gift", "grant", 900, False, currency, NOON_MS)

    @rule(
        tenant=TENANTS,
        key=KEYS,
        what=st.sampled_from(["top_up", "grant", "refund", "adjust", "adjust granted"]),
        amount=AMOUNTS,
        down=st.booleans(),
        currency=st.sampled_from(["CNY", "CNY", "USD"]),
        at_ms=INSTANTS,
    )
    def transfer(self, tenant, key, what, amount, down, currency, at_ms) -> None:
        kind, _, granted = what.partition(" ")
        call = getattr(ledger, kind)
        purse = "granted" if granted or kind == "grant" else "topped_up"
        if kind == "adjust":
            amount = -amount if down else amount
        arguments = (tenant, amount, currency, key, "note", at_ms, "root")
        done = self.outcome(call, *arguments, *([purse] if kind == "adjust" else []))
        signed = -amount if kind == "refund" else amount
        expected = self.reference.move(tenant, key, kind, signed, currency, purse)
        assert (done if isinstance(done, str) else "done") == expected

    def reserve(self, name, model, tenant, at_ms, **r) -> None:
        quote = TARIFF.find(
            model=model,
            tenant_id=tenant,
            at_ms=at_ms,
            prompt_tokens=0,
            is_batch=False,
            currency="USD" if model == "dollars" else "CNY",
        )
        asked = reservation(
            name,
            tenant_id=tenant,
            key_id=r["api_key"],
            node_id=r["node"],
            model=model,
            at_ms=at_ms,
            quote=quote,
            worst_micro=r["worst"],
            worst_tokens=r["worst_tokens"],
            credit_micro=r["credit"],
            idempotency_key=r["key"],
            body_digest=r["body"],
            tenant_limits=limits(r["caps"], "tenant"),
            key_limits=limits(r["caps"], "api_key"),
        )
        expected = self.reference.reserve(
            name, tenant=tenant, at_ms=at_ms, accept_ms=60_000, **MODELS[model], **r
        )
        assert (self.outcome(ledger.reserve, asked) or "done") == expected

    def settle(self, pick, is_open, tokens, outcome, ended_ms) -> None:
        name = self.one_of(pick, lambda q: (q["outcome"] is None) is is_open)
        prompt, cached, completion = tokens
        used = Counts(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
        done = self.outcome(ledger.settle, name, used, outcome, ended_ms)
        expected = self.reference.settle(name, tokens, outcome, ended_ms)
        assert (done if isinstance(done, str) else done.micro) == expected

    @rule(
        name=NAMES,
        tenant=TENANTS,
        api_key=API_KEYS,
        at_ms=INSTANTS,
        tokens=counts(),
        outcome=OUTCOMES,
    )
    def record(self, name, tenant, api_key, at_ms, tokens, outcome) -> None:
        """Without a reservation, as without accounts."""
        prompt, cached, completion = tokens
        used = Counts(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
        record = usage(
            name,
            tenant_id=tenant,
            key_id=api_key,
            started_ms=at_ms,
            ended_ms=at_ms,
            counts=used,
            outcome=outcome,
        )
        assert self.outcome(ledger.record, record) is None
        self.reference.record(name, tenant, api_key, at_ms, tokens, outcome)

    def accept(self, pick, is_open, accepted, at_ms) -> None:
        name = self.one_of(pick, lambda q: (q["result"] == "open") is is_open)
        done = self.outcome(ledger.accept, name, accepted, at_ms)
        expected = self.reference.accept(name, accepted, at_ms)
        assert (done if isinstance(done, str) else done.decision) == expected

    @rule(at_ms=INSTANTS, is_time=SELDOM)
    def expire(self, at_ms, is_time) -> None:
        if not is_time:
            return
        late = [
            name
            for name, q in self.reference.requests.items()
            if q["result"] == "open" and q["until"] < at_ms
        ]
        for name in late:
            self.reference.accept(name, False, at_ms)
        assert self.outcome(ledger.expire_results, at_ms) == len(late)

    @rule(node=NODES, at_ms=INSTANTS, is_time=SELDOM)
    def recover(self, node, at_ms, is_time) -> None:
        if not is_time:
            return
        left = [
            name
            for name, q in self.reference.requests.items()
            if q["node"] == node and q["outcome"] is None
        ]
        for name in left:
            self.reference.settle(name, (0, 0, 0), "restart", at_ms)
        assert self.outcome(ledger.recover, node, at_ms) == len(left)

    # Each rule is as likely as any other: what matters most is there several times.
    _reserve = rule(
        name=NAMES,
        tenant=TENANTS,
        api_key=API_KEYS,
        node=NODES,
        model=st.sampled_from(["free", "judge", "judge", "dollars"]),
        at_ms=INSTANTS,
        worst=st.integers(0, 3000) | st.just(1600),
        worst_tokens=st.integers(0, 900),
        credit=st.sampled_from([0, 0, 5000]),
        key=st.none() | KEYS,
        body=st.sampled_from(["a", "a", "a", "b"]),
        caps=st.just({}) | st.just({}) | CAPS,
    )
    reserve_0, reserve_1, reserve_2 = _reserve(reserve), _reserve(reserve), _reserve(reserve)
    _settle = rule(pick=PICKS, is_open=OFTEN, tokens=counts(), outcome=OUTCOMES, ended_ms=INSTANTS)
    settle_0, settle_1, settle_2 = _settle(settle), _settle(settle), _settle(settle)
    _accept = rule(pick=PICKS, is_open=OFTEN, accepted=OFTEN, at_ms=INSTANTS)
    accept_0, accept_1 = _accept(accept), _accept(accept)

    @invariant()
    def money_is_the_reference_s(self) -> None:
        for tenant in ("acme", "zeta"):
            found = {balance.currency: balance for balance in ledger.balances(self.db, tenant)}
            for currency in ("CNY", "USD"):
                balance = found.get(currency, ledger.Balance(currency=currency))
                reference = self.reference
                assert balance.granted_micro == reference.purse(tenant, currency, "granted")
                assert balance.topped_up_micro == reference.purse(tenant, currency, "topped_up")
                assert balance.held_micro == reference.held(tenant, currency)
                assert balance.available_micro == reference.available(tenant, currency)

    @invariant()
    def states_are_the_reference_s(self) -> None:
        still_open = [r.request_id for r in ledger.open_reservations(self.db)]
        requests = self.reference.requests
        assert still_open == [name for name, q in requests.items() if q["outcome"] is None]
        for name, q in requests.items():
            assert ledger.state_of(self.db, name) == (q["outcome"] or "open")

    @invariant()
    def it_verifies(self) -> None:
        assert ledger.verify(self.db).problems == []


def run(examples: int, steps: int, *, derandomize: bool = False) -> None:
    run_state_machine_as_test(
        AgainstTheReference,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_ledger_does_what_the_reference_does():
    run(30, 60, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_ledger_does_what_the_reference_does_100_000_steps():
    run(1000, 100)
