"""What holds for every usage object of the OpenAI surfaces (contract 3)."""

from __future__ import annotations

from tribody.conformance.json_value import Value
from tribody.conformance.verdict import expect


def check_usage(usage: Value) -> None:
    """Sums, both spellings of the cache hits, and parts that are not larger than the whole."""
    check_sums(usage)
    check_cache(usage)
    check_details(usage)


def check_sums(usage: Value) -> None:
    prompt = usage.at("prompt_tokens").integer()
    completion = usage.at("completion_tokens").integer()
    total = usage.at("total_tokens").integer()
    expect(prompt > 0 and completion >= 0, "counts that are not negative", usage.raw)
    expect(total == prompt + completion, "total_tokens = prompt + completion", usage.raw)


def check_cache(usage: Value) -> None:
    hit = usage.at("prompt_cache_hit_tokens").integer()
    miss = usage.at("prompt_cache_miss_tokens").integer()
    expect(hit >= 0 and miss >= 0, "counts that are not negative", usage.raw)
    prompt = usage.at("prompt_tokens").integer()
    expect(hit + miss == prompt, "prompt_tokens = cache hit + cache miss", usage.raw)
    usage.at("prompt_tokens_details", "cached_tokens").is_(hit)


def check_details(usage: Value) -> None:
    reasoning = usage.maybe("completion_tokens_details", "reasoning_tokens")
    if not reasoning.null:
        completion = usage.at("completion_tokens").integer()
        expect(
            0 <= reasoning.integer() <= completion,
            "reasoning_tokens within completion_tokens",
            usage.raw,
        )
