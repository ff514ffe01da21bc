"""What an engine says of itself: once when it is ready, and after every step."""

from __future__ import annotations

import msgspec


class WeightPrecision(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's weights are kept in, and what that was measured to cost.

    `formats`: shares of the weights.  `recovery` and `kl_mean_nats` (docs/quantize.md), measured on
    `verified_on`, are null for a plain format, which nobody measured for this model.
    """

    bits_per_weight: float
    formats: dict[str, float]
    recovery: float | None = None
    kl_mean_nats: float | None = None
    verified_on: str | None = None


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that stay true while the engine process lives."""

    model_id: str
    model_type: str
    vocab_size: int
    hidden_size: int  # numbers in an embedding
    max_context_tokens: int  # prompt and completion together, KV pool considered
    weight_format: str
    kv_format: str
    weight_bytes: int
    kv_budget_bytes: int
    kv_limit: str  # what set kv_budget_bytes, in words
    num_pages: int
    page_size: int
    max_running: int
    num_threads: int
    isa: str
    load_seconds: float
    fingerprint: str
    precision: WeightPrecision | None = None
    speculation: str = "off"  # what may draft tokens: "mtp", "ngram" or "mtp+ngram"
    tuning: str | None = None  # what `tribody tune` changed, in words; None: nothing was applied


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and ever-growing counters of one engine process, taken after a step."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_free: int = 0
    pages_cached: int = 0
    pages_used: int = 0
    prompt_tokens: int = 0  # computed or found in the cache, counted at admission
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0  # drafts that steps computed
    accepted_tokens: int = 0  # those that were right and became part of an answer
    step_seconds: float = 0.0  # the last step's duration
    busy_seconds: float = 0.0  # summed over all steps
