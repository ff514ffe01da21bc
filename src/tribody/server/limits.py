"""One table of every limit of the HTTP surface: numbers, counts and sizes.

Validation reads its bounds and defaults here and nowhere else; the boundary tests are generated
from the same table.  What depends on the model (context length, vocabulary) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tribody.core.errors import BadRequest


@dataclass(frozen=True)
class Limit:
    """Bounds of one numeric field, both inclusive unless `exclusive_minimum`."""

    minimum: float
    maximum: float
    default: float | None
    exclusive_minimum: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.minimum if self.exclusive_minimum else value >= self.minimum
        return above and value <= self.maximum

    def range_text(self) -> str:
        lower = "above" if self.exclusive_minimum else "at least"
        return f"{lower} {self.minimum:g} and at most {self.maximum:g}"


INT64_MAXIMUM = 2**63 - 1

NUMBERS: dict[str, Limit] = {
    "temperature": Limit(0.0, 2.0, 1.0),
    "top_p": Limit(0.0, 1.0, 1.0, exclusive_minimum=True),
    "top_k": Limit(-1, 2**31 - 1, 0),  # 0 and -1 mean off; -1 is what vLLM's clients send
    "min_p": Limit(0.0, 1.0, 0.0),
    "frequency_penalty": Limit(-2.0, 2.0, 0.0),
    "presence_penalty": Limit(-2.0, 2.0, 0.0),
    "repetition_penalty": Limit(0.0, 10.0, 1.0, exclusive_minimum=True),
    "seed": Limit(-(2**63), INT64_MAXIMUM, None),  # None: drawn per request
    "top_logprobs": Limit(0, 20, 0),
    "logprobs": Limit(0, 20, None),  # of /v1/completions; on chat it is a boolean
    "max_tokens": Limit(1, 2**31 - 1, None),  # None: what is left of the context
    "max_completion_tokens": Limit(1, 2**31 - 1, None),
    "n": Limit(1, 128, 1),
    "best_of": Limit(1, 128, None),
}

LOGIT_BIAS_VALUE = Limit(-100.0, 100.0, None)

MAX_BODY_BYTES = 48 * 2**20  # DeepSeek's documented limit of a request body
MAX_HEADER_BYTES = 16 * 2**10  # request line and all headers together
HEADER_SECONDS = 10.0  # a client that has not sent its headers by then is cut off
BODY_SECONDS = 60.0  # in every such window a body must grow by BODY_WINDOW_BYTES or end
BODY_WINDOW_BYTES = 64 * 2**10

MAX_MESSAGES = 16_384
MAX_PARTS = 1_024  # text parts of one message
MAX_PROMPTS = 128  # prompts of one completions request
MAX_CHOICES = 128  # prompts times n
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1_024
MAX_NAME_CHARACTERS = 256  # model names and message names
MAX_USER_BYTES = 512
MAX_IGNORED_FIELDS = 16  # named in x-tribody-ignored; more are counted


def check_number(field: str, value: float | None) -> None:
    """Raise BadRequest when `value` is outside the table's bounds; None is always fine."""
    if value is not None:
        check_bounds(field, value, NUMBERS[field])


def check_bounds(param: str, value: float, limit: Limit) -> None:
    if not limit.holds(value):
        shown = repr(value) if abs(value) < 1e18 else "a number that large"
        raise BadRequest(f"{param} must be {limit.range_text()}, not {shown}.", param=param)


def check_count(param: str, count: int, maximum: int, what: str) -> None:
    if count > maximum:
        raise BadRequest(f"{param} has {count} {what}; at most {maximum} are allowed.", param=param)
