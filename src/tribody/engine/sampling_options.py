"""Sampling options as `tribody.LLM` takes them, and the ranges that it holds them to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from tribody.core.errors import BadRequest
from tribody.core.request import SamplingParams

NUM_LOGPROBS_LIMIT = 20  # as the server's


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen; see `core.request.SamplingParams`, which holds the defaults.

    max_tokens defaults to what is left of the context, seed to a drawn number.
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


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Raises: BadRequest naming the first value that is out of range."""
    rules: list[tuple[str, float, Callable[[float], bool], str]] = [
        ("max_tokens", params.max_tokens, lambda x: x >= 1, "at least 1"),
        ("temperature", params.temperature, lambda x: 0 <= x <= 100, "in [0, 100]"),
        ("top_p", params.top_p, lambda x: 0 < x <= 1, "in (0, 1]"),
        ("top_k", params.top_k, lambda x: x >= 0, "at least 0 (0 = off)"),
        ("min_p", params.min_p, lambda x: 0 <= x <= 1, "in [0, 1]"),
        ("frequency_penalty", params.frequency_penalty, lambda x: -2 <= x <= 2, "in [-2, 2]"),
        ("presence_penalty", params.presence_penalty, lambda x: -2 <= x <= 2, "in [-2, 2]"),
        ("repetition_penalty", params.repetition_penalty, lambda x: 0 < x <= 10, "in (0, 10]"),
        (
            "num_logprobs",
            params.num_logprobs,
            lambda x: -1 <= x <= NUM_LOGPROBS_LIMIT,
            f"in [-1, {NUM_LOGPROBS_LIMIT}]",
        ),
    ]
    for name, value, holds, wanted in rules:
        if not holds(value):
            raise BadRequest(f"{name} is {value}; it must be {wanted}", param=name)
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not -100 <= bias <= 100:
            raise BadRequest(
                f"logit_bias {{{token}: {bias}}}: ids are in [0, {vocab_size}), "
                "values in [-100, 100]",
                param="logit_bias",
            )
    if "" in params.stop:
        raise BadRequest("a stop string must not be empty", param="stop")
