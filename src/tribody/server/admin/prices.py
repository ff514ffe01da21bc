"""/admin/tariff: the price list in use, those that were, and what is wrong with one."""

from __future__ import annotations

import re

import anyio.to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing.tariff_store import (
    current_tariff,
    put_in,
    tariff_text,
    tariff_uses,
    usable_tariff,
)
from tribody.billing.tariffs import Tariff
from tribody.billing.tariffs_check import Problem
from tribody.core.errors import BadRequest
from tribody.server.admin.book_types import (
    ProblemShown,
    TariffChecked,
    TariffGiven,
    TariffHistory,
    TariffShown,
    TariffUsed,
)
from tribody.server.admin.state import (
    WHO,
    answered,
    body_of,
    for_callers,
    no_such,
    state_of,
)

DIGEST = re.compile("[0-9a-f]{64}")


async def show_tariff(http: HttpRequest) -> Response:
    """GET: the one in use."""
    found = await state_of(http).read(current_tariff)
    if found is None:
        raise BadRequest(
            "No tariff is in use yet, and nothing is answered without one: PUT one here.",
            status=404,
            code="not_found",
        )
    return answered(TariffShown(digest=found.digest, text=found.text))


async def check_tariff(http: HttpRequest) -> Response:
    """POST: what is wrong or doubtful; nothing is changed."""
    given = await body_of(http, TariffGiven)
    with for_callers():
        tariff, problems = await anyio.to_thread.run_sync(_checked, given.text)
    return answered(
        TariffChecked(
            digest=tariff.digest,
            ok=all(one.severity != "error" for one in problems),
            problems=[ProblemShown(severity=one.severity, text=one.text) for one in problems],
        )
    )


async def use_tariff(http: HttpRequest) -> Response:
    """PUT: requests that come from now on are priced by it."""
    state, given = state_of(http), await body_of(http, TariffGiven)
    with for_callers():
        tariff = await anyio.to_thread.run_sync(usable_tariff, given.text)
    at_ms = state.now_ms()
    await state.write(lambda db: put_in(db, tariff, at_ms, WHO))
    return answered(TariffShown(digest=tariff.digest, text=tariff.text))


async def tariff_history(http: HttpRequest) -> Response:
    """GET: which price lists were put to use, and when."""
    uses = await state_of(http).read(tariff_uses)
    shown = [TariffUsed(digest=use.digest, at_ms=use.at_ms, who=use.who) for use in uses]
    return answered(TariffHistory(data=shown[::-1]))


async def show_old_tariff(http: HttpRequest) -> Response:
    """GET: the text of one that was ever in use."""
    digest = http.path_params["digest"]
    text = None
    if DIGEST.fullmatch(digest):
        text = await state_of(http).read(lambda db: tariff_text(db, digest))
    if text is None:
        raise no_such("tariff")
    return answered(TariffShown(digest=digest, text=text))


def _checked(text: str) -> tuple[Tariff, list[Problem]]:
    """In a thread: a long list takes seconds to check."""
    tariff = Tariff.parse(text)
    return tariff, tariff.problems()
