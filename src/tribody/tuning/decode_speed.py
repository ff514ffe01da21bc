"""How fast one sequence is decoded and read in one precision against another, in turns.

What is timed is Engine.step(): scheduling, the model, choosing the token.  Both engines take turns,
a few steps each, so that a clock that drifts or a neighbour on the machine meets both.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tribody.core.config import EngineConfig, WeightFormat
from tribody.core.request import Request, SamplingParams
from tribody.engine.engine import Engine
from tribody.quality.logits import LoadedModel, Precision
from tribody.quality.statistics import F64, Interval, Z

BASELINE: WeightFormat = "float16"

ROUNDS, STEPS = 25, 8
# Of decoding.  A turn of 8 steps is 20 to 100 ms on a model of 135M; a median of 25 pairs does not
# move by more than 1 % on a quiet machine.

PREFILL_ROUNDS, PREFILL_TOKENS = 5, 512

KV_BYTES = 1 << 28  # room for a turn's sequences, whatever the model


class _Sequence:
    """An engine with one sequence at a time."""

    def __init__(self, config: EngineConfig, precision: Precision) -> None:
        alone = msgspec.structs.replace(
            config, kv_budget_bytes=KV_BYTES, speculation="off", max_running=1
        )
        built = LoadedModel(alone, precision).built
        self._engine: Engine = built.engine
        self._vocab_size = built.info.vocab_size
        self.max_tokens = built.info.max_context_tokens
        self._numbers = itertools.count()

    def _submit(self, num_tokens: int, max_tokens: int) -> str:
        number = next(self._numbers)
        tokens = np.random.default_rng(number).integers(0, self._vocab_size, num_tokens)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        request = Request(
            id=str(number),
            prompt_token_ids=tokens.tolist(),
            sampling=sampling,
            cache_salt=str(number),  # nothing is found in the prefix cache
        )
        self._engine.submit(request)
        return request.id

    def begin(self) -> None:
        """Start the sequence that `decode` goes on with."""
        self._submit(1, min(self.max_tokens - 1, STEPS * (ROUNDS + 2)))
        while not self._engine.step():
            pass

    def decode(self) -> float:
        """Seconds of STEPS tokens."""
        started = time.perf_counter()
        for _ in range(STEPS):
            self._engine.step()
        return time.perf_counter() - started

    def prefill(self) -> float:
        """Seconds of a prompt's first token."""
        started = time.perf_counter()
        self._submit(self.prefill_tokens, 1)
        while self._engine.has_work():
            self._engine.step()
        return time.perf_counter() - started

    @property
    def prefill_tokens(self) -> int:
        return min(PREFILL_TOKENS, self.max_tokens - 1)


@dataclass(frozen=True)
class Comparison:
    """Times of the baseline over times of the other: 2 is twice as fast."""

    decode: F64
    prefill: F64
    prefill_tokens: int


def compare_speed(
    config: EngineConfig, precision: Precision, advance: Callable[[int], None]
) -> Comparison:
    """Time a precision against BASELINE; advances by ROUNDS + PREFILL_ROUNDS in all."""
    first = _Sequence(config, Precision(BASELINE, "float16"))
    second = _Sequence(config, precision)
    pair = first, second

    def ratios(rounds: int, measure: Callable[[_Sequence], float]) -> F64:
        for sequence in pair:
            measure(sequence)  # caches and clocks are warm
        found = []
        for index in range(rounds):
            turn = pair if index % 2 else pair[::-1]
            seconds = {id(sequence): measure(sequence) for sequence in turn}
            found.append(seconds[id(first)] / seconds[id(second)])
            advance(1)
        return np.array(found)

    prefill = ratios(PREFILL_ROUNDS, _Sequence.prefill)
    for sequence in pair:
        sequence.begin()
    rounds = min(ROUNDS, (first.max_tokens - 1) // STEPS - 2)
    return Comparison(ratios(rounds, _Sequence.decode), prefill, first.prefill_tokens)


def median_interval(values: F64) -> Interval:
    """Of the median, 95 %, by order statistics: the binomial distribution, as a normal one."""
    ordered, half = np.sort(values), Z * math.sqrt(len(values)) / 2
    low = max(0, math.floor(len(values) / 2 - half))
    high = min(len(values) - 1, math.ceil(len(values) / 2 + half))
    return Interval(float(ordered[low]), float(ordered[high]))


@dataclass(frozen=True)
class Rates:
    """What decoding takes with all matrices in one format, as a share of BASELINE's time.

    `work` is how many weights of each matrix a token meets.  A mixture is taken to need the mean of
    its formats' times, weighted by work; the file that is made of it is timed afterwards.
    """

    shares: Mapping[WeightFormat, float]
    work: Mapping[str, float]

    def speed(self, choices: Mapping[str, WeightFormat]) -> float:
        """Times as fast as BASELINE."""
        needed = sum(self.work[name] * self.shares[chosen] for name, chosen in choices.items())
        return sum(self.work.values()) / needed


def measured_rates(
    config: EngineConfig,
    formats: Sequence[WeightFormat],
    work: Mapping[str, float],
    advance: Callable[[int], None],
) -> Rates:
    """Advances by len(formats) * (ROUNDS + PREFILL_ROUNDS) in all."""
    shares = {
        name: 1
        / float(np.median(compare_speed(config, Precision(name, "float16"), advance).decode))
        for name in formats
    }
    return Rates(shares, work)
