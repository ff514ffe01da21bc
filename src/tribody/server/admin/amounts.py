"""Amounts on the wire: text in yuan or dollars, exact, as DeepSeek's balance has them."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from tribody.billing.money import parse_micro, show_micro
from tribody.core.errors import BadConfig, BadValue

AMOUNT = r"-?[0-9]{1,10}(\.[0-9]{1,6})?"
UNSIGNED = AMOUNT.removeprefix("-?")

Amount = Annotated[str, Meta(extra_json_schema={"pattern": f"^{AMOUNT}$"})]  # may be below 0
UnsignedAmount = Annotated[str, Meta(extra_json_schema={"pattern": f"^{UNSIGNED}$"})]


def amount_text(micro: int) -> str:
    """`1234.50`: at least two places, and as many as it takes to be exact."""
    return show_micro(micro).replace(",", "")


def micro_of(param: str, text: str, *, signed: bool = False) -> int:
    """Raises: BadValue on anything that `amount_text` would not say, or that is too much."""
    if not re.fullmatch(AMOUNT if signed else UNSIGNED, text):
        least = "" if signed else ", not below 0"
        raise BadValue(
            f"{param} {text[:40]!r} is not an amount{least}; write digits with at most six behind "
            'the point, as text: "100" or "0.50".',
            param=param,
        )
    try:
        return parse_micro(param, text)
    except BadConfig as error:
        raise BadValue(f"{error}.", param=param) from error
