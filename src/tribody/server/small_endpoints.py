"""Endpoints that generate nothing: models, probes, metrics, version, balance."""

from __future__ import annotations

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing import records as billing
from tribody.core.principal import Principal
from tribody.core.version import VERSION
from tribody.server.models_table import ServedName
from tribody.server.service import Service
from tribody.server.types import Balance, BalanceInfo, ModelCard, ModelList, Status, Version


def _json(payload: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(payload), status, media_type="application/json")


async def list_models(http: HttpRequest) -> Response:
    service: Service = http.app.state.service
    allowed = http.state.principal.models
    listed = service.models.listed()
    if allowed is not None:
        listed = [one for one in listed if allowed & {one.name, one.model.model_id}]
    return _json(ModelList([_card(service, served) for served in listed]))


async def show_model(http: HttpRequest) -> Response:
    service: Service = http.app.state.service
    return _json(
        _card(service, service.find_model(http.path_params["model_id"], http.state.principal))
    )


def _card(service: Service, served: ServedName) -> ModelCard:
    """A name without a mode of its own is its model's alias and shows the model's card."""
    model = served.model
    return ModelCard(
        id=model.model_id if served.thinking is None else served.name,
        root=model.model_id,
        created=model.created,
        owned_by="tribody",
        max_context_tokens=model.engine.info.max_context_tokens,
        aliases=service.models.aliases_of(model),
        precision=model.engine.info.precision,
    )


async def alive(http: HttpRequest) -> Response:
    """The API process answers; says nothing about the engines."""
    return _json(Status("ok"))


async def ready(http: HttpRequest) -> Response:
    """503 while draining or while any engine is down: send new work elsewhere."""
    service: Service = http.app.state.service
    if service.draining:
        return _json(Status("draining"), 503)
    if service.books is not None and (trouble := service.books.trouble) is not None:
        return _json(Status(trouble), 503)
    if not all(model.engine.ready for model in service.models.models):
        return _json(Status("engine restarting"), 503)
    return _json(Status("ready"))


async def metrics(http: HttpRequest) -> Response:
    service: Service = http.app.state.service
    if service.books is not None:
        service.metrics.ledger.figures = await service.books.figures()
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(service.metrics.exposition(), media_type=kind)


async def balance(http: HttpRequest) -> Response:
    """The tenant's money; where nothing is charged there is always enough of it."""
    service: Service = http.app.state.service
    caller: Principal = http.state.principal
    found = None
    if service.books is not None and caller.is_charged:
        found = await service.books.balances(caller.tenant_id)
    if found is None:
        return _json(Balance(is_available=True, balance_infos=[]))
    found = found or [billing.Balance(currency=caller.currency)]
    available = any(one.available_micro + caller.credit_micro > 0 for one in found)
    return _json(Balance(is_available=available, balance_infos=[_info(one) for one in found]))


def _info(balance: billing.Balance) -> BalanceInfo:
    """In fen, as DeepSeek shows it; what is less than one is not shown."""
    return BalanceInfo(
        currency=balance.currency,
        total_balance=fen(balance.granted_micro + balance.topped_up_micro),
        granted_balance=fen(balance.granted_micro),
        topped_up_balance=fen(balance.topped_up_micro),
    )


def fen(micro: int) -> str:
    """Micro-units as units with two places, towards zero: 110_009_999 is 110.00."""
    cents = abs(micro) // 10_000
    sign = "-" if micro < 0 and cents else ""
    return f"{sign}{cents // 100}.{cents % 100:02}"


async def version(http: HttpRequest) -> Response:
    return _json(Version(VERSION))
