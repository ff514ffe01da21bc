"""Sampling options as `tribody.LLM` takes them."""

from __future__ import annotations

from typing import TypedDict

from tribody.core.errors import BadRequest
from tribody.core.request import SamplingParams
from tribody.core.sampling_ranges import LOGIT_BIAS_RANGE, SAMPLING_RANGES


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen; see `core.request.SamplingParams`, which holds the defaults.

    max_tokens defaults to what is left of the context, seed to a drawn number.  `grammar` is
    llguidance's Lark; `json_schema` of `generate` and `chat` writes one.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: dict[int, float]
    seed: int
    num_logprobs: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    grammar: str


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Raises: BadRequest naming the first value that is out of range."""
    for name, bounds in SAMPLING_RANGES.items():
        value = getattr(params, name)
        if not bounds.holds(value):
            raise BadRequest(f"{name} is {value}; it must be {bounds.in_words()}", param=name)
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not LOGIT_BIAS_RANGE.holds(bias):
            raise BadRequest(
                f"logit_bias {{{token}: {bias}}}: ids are in [0, {vocab_size}), "
                f"values {LOGIT_BIAS_RANGE.in_words()}",
                param="logit_bias",
            )
    if "" in params.stop:
        raise BadRequest("a stop string must not be empty", param="stop")
