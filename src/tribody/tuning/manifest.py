"""What a quantized model says of itself: its formats, how they were chosen, what they cost."""

from __future__ import annotations

import msgspec

from tribody.core.config import WeightFormat
from tribody.quality.statistics import Interval


class MatrixReport(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix: what it is kept in, and what each format that was tried cost.

    `losses` are mean KL divergences in nats per token, this matrix's part of the whole model's
    with all matrices, rounded plainly, in that format.
    """

    format: WeightFormat
    num_weights: int
    num_bytes: int
    losses: dict[str, float]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The whole model against float32 on text that no format was chosen by.

    Flips: tokens of the text that were the most likely ones and are no longer, and the reverse.
    """

    corpus: str
    sha256: str
    num_tokens: int
    kl_mean_nats: float
    kl_mean_interval_nats: Interval | None
    perplexity_ratio: float
    perplexity_ratio_interval: Interval | None
    top1_agreement: float
    correct_to_wrong: int
    wrong_to_correct: int
    mcnemar_p: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The text that formats were chosen by."""

    source: str
    sha256: str
    num_tokens: int


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One allocation: its bits per weight and the sum of its matrices' losses."""

    bits_per_weight: float
    predicted_kl_nats: float


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast as in float16 the model ran on the machine that quantized it.

    One sequence, 16-bit cache, no speculation; the two models took turns.  `target` is what was
    asked for; medians, and an interval of the median.
    """

    target: float
    predicted_decode_ratio: float
    decode_ratio: float
    decode_ratio_interval: Interval
    prefill_ratio: float
    prefill_tokens: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`recovery` is exp(-mean KL): the factor, in the geometric mean, by which the probabilities
    of the reference's next tokens are kept.  `budget` is the recovery that was asked for, null
    when it was bytes or speed alone.
    """

    tribody_version: str
    source: str
    source_fingerprint: str
    budget: float | None
    target_bits_per_weight: float | None
    bits_per_weight: float
    weight_bytes: int
    recovery: float
    speed: Speed | None
    calibration: Calibration
    verification: Verification
    matrices: dict[str, MatrixReport]
    frontier: list[FrontierPoint]
