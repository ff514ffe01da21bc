"""From wire fields to `SamplingParams`: every range, count and combination is checked here.

Types were checked while decoding (`types`), bounds come from `limits`, the model's own bounds
(context, vocabulary) from its engine.  Nothing is clamped: a value out of range is refused.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection
from typing import Protocol

import msgspec

from tribody.core.errors import BadRequest, BadValue
from tribody.core.request import SamplingParams
from tribody.core.sampling_ranges import LOGIT_BIAS_RANGE
from tribody.server import limits
from tribody.server.types import SamplingFields


def unknown_fields(body: bytes, known: Collection[str]) -> list[str]:
    """Names of top-level fields that are given, not null, and not ours; the body is an object."""
    given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return [name for name, raw in given.items() if name not in known and bytes(raw) != b"null"]


def check_fields(fields: SamplingFields) -> None:
    """Check all that does not depend on the model or the prompt.

    Raises: BadRequest with the parameter's name.
    """
    for name in limits.NUMBERS:
        value = getattr(fields, name, None)
        if not isinstance(value, bool):
            limits.check_number(name, value)
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("stream_options needs stream: true.", param="stream_options")
    check_users(fields)


class NamesUser(Protocol):
    """A request that may name its end user."""

    @property
    def user(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...


def check_users(fields: NamesUser) -> None:
    """Raises: BadValue when a name is too long."""
    for name in ("user", "user_id"):
        value = getattr(fields, name)
        if value is not None:
            limits.check_count(name, len(value), limits.MAX_USER_CHARACTERS, "characters")


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [] if stop is None else [stop] if isinstance(stop, str) else stop
    limits.check_count("stop", len(strings), limits.MAX_STOPS, "strings")
    for text in strings:
        if not text:
            raise BadValue("A stop string must not be empty.", param="stop")
        limits.check_count(
            "stop", len(text), limits.MAX_STOP_CHARACTERS, "characters in one string"
        )
    return tuple(strings)


def logit_bias(given: dict[str, float] | None, vocab_size: int) -> dict[int, float]:
    biases: dict[int, float] = {}
    limits.check_count("logit_bias", len(given or ()), limits.MAX_LOGIT_BIASES, "entries")
    for key, value in (given or {}).items():
        if not key.isascii() or not key.isdigit() or len(key) > 9:
            raise BadValue(
                f"logit_bias names {key[:32]!r}, which is not a token id.", param="logit_bias"
            )
        check_token_ids("logit_bias", [int(key)], vocab_size)
        limits.check_bounds("logit_bias", value, LOGIT_BIAS_RANGE)
        biases[int(key)] = value
    return biases


def texts_or_ids(param: str, given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The four forms of a prompt (text, ids, several of one of them) as a list.

    Raises: BadRequest when it holds nothing, or ids beside texts or lists.
    """
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    if not given:
        raise BadRequest(f"{param} must hold at least one {param}.", param=param)
    if len(ids) == len(given):
        return [ids]
    if ids:
        raise BadRequest(
            f"{param} must be a string, token ids, or a list of one of them.", param=param
        )
    return [item for item in given if not isinstance(item, int)]


def check_token_ids(param: str, ids: list[int], vocab_size: int) -> None:
    """Raises: BadValue for what is no id of any model, BadRequest for one that this has not."""
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            kind = BadRequest if 0 <= token_id <= limits.MAX_TOKEN_ID else BadValue
            raise kind(f"{param} holds a token id that is not in [0, {vocab_size}).", param=param)


def completion_budget(
    num_prompt_tokens: int, asked: int | None, max_context_tokens: int, *, param: str
) -> int:
    """How many tokens may be generated: what was asked, or what is left of the context.

    Raises: BadRequest (context_length_exceeded) when prompt and completion do not fit.
    """
    left = max_context_tokens - num_prompt_tokens
    if asked is not None and asked <= left:
        return asked
    if asked is None and left >= 1:
        return left
    if asked is None or left < 1:
        found = f"your {param} resulted in {num_prompt_tokens} tokens"
        advice = f"Please reduce the length of the {param}"
    else:
        found = (
            f"you requested {num_prompt_tokens + asked} tokens ({num_prompt_tokens} in the "
            f"{param}, {asked} in the completion)"
        )
        advice = f"Please reduce the length of the {param} or completion"
    raise BadRequest(
        f"This model's maximum context length is {max_context_tokens} tokens. However, {found}. "
        f"{advice}.",
        param=param,
        code="context_length_exceeded",
    )


def refuse_hopeless(
    text: str, longest_token_bytes: int, max_context_tokens: int, param: str
) -> None:
    """Refuse a text that cannot fit, before the tokenizer spends a second a MiB on it.

    Every token covers at most `longest_token_bytes` of the text, so it has at least that many
    tokens.
    """
    num_bytes = len(text.encode("utf-8", "surrogatepass"))
    least = math.ceil(num_bytes / longest_token_bytes)
    if least > max_context_tokens:
        raise BadRequest(
            f"This model's maximum context length is {max_context_tokens} tokens. However, your "
            f"{param} has {len(text)} characters, more than could fit. Please reduce the length "
            f"of the {param}.",
            param=param,
            code="context_length_exceeded",
        )


def sampling_params(
    fields: SamplingFields, *, vocab_size: int, max_tokens: int, num_logprobs: int
) -> SamplingParams:
    """Collect checked fields and defaults; call `check_fields` first.

    A request without a seed gets a drawn one, which stays with it (see core.request).
    """
    stop_ids = fields.stop_token_ids or []
    limits.check_count("stop_token_ids", len(stop_ids), limits.MAX_STOP_TOKEN_IDS, "ids")
    check_token_ids("stop_token_ids", stop_ids, vocab_size)
    seed = secrets.randbits(63) if fields.seed is None else fields.seed % 2**64
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_number(fields, "temperature"),
        top_p=_number(fields, "top_p"),
        top_k=max(0, int(_number(fields, "top_k"))),
        min_p=_number(fields, "min_p"),
        frequency_penalty=_number(fields, "frequency_penalty"),
        presence_penalty=_number(fields, "presence_penalty"),
        repetition_penalty=_number(fields, "repetition_penalty"),
        logit_bias=logit_bias(fields.logit_bias, vocab_size),
        seed=seed,
        num_logprobs=num_logprobs,
        stop=stop_strings(fields.stop),
        stop_token_ids=tuple(stop_ids),
        ignore_eos=bool(fields.ignore_eos),
    )


def _number(fields: SamplingFields, name: str) -> float:
    value: float | None = getattr(fields, name)
    return limits.DEFAULTS[name] if value is None else value
