"""One table of every limit of the HTTP surface: numbers, counts and sizes.

Validation reads bounds and defaults here and nowhere else; /openapi.json and the boundary tests are
generated from the same table.  What depends on the model (context length, vocabulary) is not here.
"""

from __future__ import annotations

from dataclasses import replace

from tribody.core.errors import BadValue
from tribody.core.request import SamplingParams
from tribody.core.sampling_ranges import MAX_TOP_LOGPROBS, SAMPLING_RANGES, Range

INT64_MAXIMUM = 2**63 - 1

_FROM_THE_WIRE = {name: r for name, r in SAMPLING_RANGES.items() if name != "num_logprobs"}
NUMBERS: dict[str, Range] = {
    **_FROM_THE_WIRE,
    "max_tokens": Range(1, 393_216),  # DeepSeek's; a profile may allow less
    "top_k": replace(SAMPLING_RANGES["top_k"], minimum=-1),  # off, as vLLM's clients send it
    "seed": Range(-(2**63), INT64_MAXIMUM),
    "top_logprobs": Range(0, MAX_TOP_LOGPROBS),
    "logprobs": Range(0, MAX_TOP_LOGPROBS),  # of /v1/completions; on chat it is a boolean
    "max_completion_tokens": Range(1, 393_216),
    "max_output_tokens": Range(1, 393_216),  # of /responses
    "n": Range(1, 128),
    "best_of": Range(1, 128),
}

_SAMPLING = SamplingParams(max_tokens=1)
DEFAULTS: dict[str, float] = {
    **{n: getattr(_SAMPLING, n) for n in _FROM_THE_WIRE if n != "max_tokens"},
    "n": 1,
    "top_logprobs": 0,
}
# Where a number is not given.  The others' follow from the profile and the context (max_tokens and
# its like), from n (best_of), or are drawn (seed).

MAX_BODY_BYTES = 48 * 2**20  # DeepSeek's documented limit of a request body
MAX_CONTAINERS = 2**18  # arrays and objects of one body
MAX_HEADER_BYTES = 16 * 2**10  # request line and all headers together
HEADER_SECONDS = 10.0  # a client that has not sent its headers by then is cut off
BODY_SECONDS = 60.0  # in every such window a body must grow by BODY_WINDOW_BYTES or end
BODY_WINDOW_BYTES = 64 * 2**10

MAX_MESSAGES = 16_384
MAX_PARTS = 1_024  # text parts of one message
MAX_INPUTS = 2_048  # texts of one embeddings request: OpenAI's
MAX_PROMPTS = 128  # prompts of one completions request
MAX_CHOICES = 128  # prompts times n
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1_024
MAX_NAME_CHARACTERS = 256  # model names and message names
MAX_USER_CHARACTERS = 512
MAX_TOKEN_ID = 2**31 - 1  # of any model
MAX_FIM_TOKENS = 4_096  # filled in between a prompt and a suffix
MAX_TOOLS = 128
MAX_TOOL_CALLS = 128  # in one message
MAX_TOOL_DESCRIPTION = 64 * 2**10  # characters
MAX_METADATA = 16  # entries; OpenAI's limits
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512  # characters
MAX_FILES = 10_000  # of one key; these two are DeepSeek's
MAX_FILES_BYTES = 25 * 2**30
MAX_FILE_NAME = 256  # characters
MIN_KEEP_SECONDS = 3_600  # a file may expire between these, DeepSeek's too
MAX_KEEP_SECONDS = 2_592_000
MAX_LISTED_FILES = 10_000  # in one answer
MAX_LISTED_BATCHES = 100
MAX_BATCH_LINES = 50_000  # requests of one batch: OpenAI's
MAX_BATCH_ERRORS = 100  # of a batch's lines that are told
MAX_CUSTOM_ID = 512  # characters
MAX_OPEN_BATCHES = 100  # of one key, not ended
MAX_METADATA = 16  # pairs
MAX_METADATA_KEY = 64  # characters
MAX_METADATA_VALUE = 512
BATCH_SECONDS = 24 * 3_600
START_SECONDS = 600.0  # a request that has not begun to run by then is ended
MAX_IGNORED_FIELDS = 16  # named in x-tribody-ignored; more are counted


def check_number(field: str, value: float | None) -> None:
    """Raise BadValue when `value` is outside the table's bounds; None is always fine."""
    if value is not None:
        check_bounds(field, value, NUMBERS[field])


def check_bounds(param: str, value: float, bounds: Range) -> None:
    if not bounds.holds(value):
        shown = repr(value) if abs(value) < 1e18 else "a number that large"
        raise BadValue(f"{param} must be {bounds.in_words()}, not {shown}.", param=param)


def check_count(param: str, count: int, maximum: int, what: str) -> None:
    if count > maximum:
        raise BadValue(f"{param} has {count} {what}; at most {maximum} are allowed.", param=param)
