"""The ranges of sampling options, the same for every way in: the HTTP surface and `tribody.LLM`.

Defaults stand in `core.request.SamplingParams`.  What depends on the model is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both inclusive unless `exclusive_minimum`.  NaN is in no range."""

    minimum: float
    maximum: float
    exclusive_minimum: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.minimum if self.exclusive_minimum else value >= self.minimum
        return above and value <= self.maximum

    def in_words(self) -> str:
        lower = "above" if self.exclusive_minimum else "at least"
        return f"{lower} {self.minimum:g} and at most {self.maximum:g}"


MAX_TOP_LOGPROBS = 20  # OpenAI's limit

# By fields of SamplingParams.
SAMPLING_RANGES: dict[str, Range] = {
    "max_tokens": Range(1, 2**31 - 1),
    "temperature": Range(0.0, 2.0),
    "top_p": Range(0.0, 1.0, exclusive_minimum=True),
    "top_k": Range(0, 2**31 - 1),  # 0 = off
    "min_p": Range(0.0, 1.0),
    "frequency_penalty": Range(-2.0, 2.0),
    "presence_penalty": Range(-2.0, 2.0),
    "repetition_penalty": Range(0.0, 10.0, exclusive_minimum=True),
    "num_logprobs": Range(-1, MAX_TOP_LOGPROBS),  # -1 = none
}
LOGIT_BIAS_RANGE = Range(-100.0, 100.0)  # of each value
