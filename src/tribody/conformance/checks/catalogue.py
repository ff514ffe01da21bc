"""What a server says of itself: its models and the caller's balance (contract 1 and 8)."""

from __future__ import annotations

import re

from tribody.conformance.check import Check, Section
from tribody.conformance.json_value import Value
from tribody.conformance.target import ABSENT, Target
from tribody.conformance.verdict import expect
from tribody.conformance.wire import Answer

AMOUNT = re.compile(r"-?\d{1,15}(\.\d{1,10})?")


def _path(t: Target) -> str:
    found = t.keep("models path", lambda: t.client.send("GET", "/models").status)
    return "/v1/models" if found in ABSENT else "/models"


def _cards(t: Target) -> list[Value]:
    path = _path(t)
    return t.keep("cards", lambda: t.client.send("GET", path).ok()).at("data").items()


def list_shape(t: Target) -> None:
    cards = _cards(t)
    expect(cards, "at least one model", "none")
    for card in cards:
        card.at("object").is_("model")
        card.at("id").text()
        card.at("owned_by").text()


def unique_ids(t: Target) -> None:
    ids = [card.at("id").text() for card in _cards(t)]
    expect(len(set(ids)) == len(ids), "every id once", ids)


def lists_ours(t: Target) -> None:
    ids = [card.at("id").text() for card in _cards(t)]
    aliases = [name.raw for card in _cards(t) if card.has("aliases")
               for name in card.at("aliases").items()]  # fmt: skip
    expect(t.model in [*ids, *aliases], f"{t.model!r} among the models", ids)


def created(t: Target) -> None:
    for card in _cards(t):
        if card.has("created"):
            card.at("created").integer()


def retrieve(t: Target) -> None:
    name = _cards(t)[0].at("id").text()
    answer = t.needs_200(t.client.send("GET", f"{_path(t)}/{name}"), "one model's card")
    answer.json().at("id").is_(name)


def retrieve_unknown(t: Target) -> None:
    answer = t.client.send("GET", f"{_path(t)}/no-such-model")
    answer.expect_status(404, 400)
    answer.json()


def _balance(t: Target) -> Answer:
    return t.keep("balance", lambda: t.client.send("GET", "/user/balance"))


def balance_shape(t: Target) -> None:
    found = t.needs_200(_balance(t), "/user/balance").json()
    found.at("is_available").boolean()
    for info in found.at("balance_infos").items():
        info.at("currency").one_of("CNY", "USD")


def balance_amounts(t: Target) -> None:
    found = t.needs_200(_balance(t), "/user/balance").json()
    for info in found.at("balance_infos").items():
        for name in ("total_balance", "granted_balance", "topped_up_balance"):
            text = info.at(name).text()
            expect(AMOUNT.fullmatch(text), f"{name} as a decimal string", text)


SECTION = Section(
    "catalogue",
    "Models and balance",
    (
        Check("catalogue.models", "models have id, object and owned_by", list_shape),
        Check("catalogue.unique", "every id is listed once", unique_ids),
        Check("catalogue.listed", "the model that answers is listed", lists_ours),
        Check("catalogue.created", "created, where given, is a whole number", created),
        Check("catalogue.retrieve", "one model can be looked up", retrieve),
        Check("catalogue.unknown", "an unknown model is a 404", retrieve_unknown),
        Check("catalogue.balance", "balance: is_available and currencies", balance_shape),
        Check("catalogue.amounts", "balance: amounts are strings", balance_amounts),
    ),
)
