"""What DeepSeek's two contracts differ in, as data (docs/api.md has the table).

2025: V3 and R1.  The model's name says whether it thinks; reasoning that comes back is refused;
      the reasoner gives no log probabilities.
2026: V4.  The request says whether to think, which is the default; where tools are used, the
      reasoning that led to a call has to come back with it.

Both accept each other's fields.  In both, temperature, top_p and penalties are accepted without
effect while a model thinks (`ApiSettings.sampling` changes that).
"""

from __future__ import annotations

from dataclasses import dataclass

from tribody.core.api_settings import ProfileName


@dataclass(frozen=True)
class TokenBudget:
    """Completion tokens, thinking included: without a word from the request, and at most."""

    default: int
    maximum: int


@dataclass(frozen=True)
class Profile:
    thinks_by_default: bool | None  # None: the model's name says, else its template
    refuses_reasoning: bool  # `reasoning_content` in a message of the request is an error
    wants_reasoning_back: bool  # with every tool call of a thinking model
    thinking_has_logprobs: bool
    thinking_may_be_forced: bool  # to call a tool, by tool_choice
    thinking_temperature: float  # what a model that thinks is sampled with
    thinking_top_p: float
    thinking: TokenBudget
    plain: TokenBudget


PROFILES: dict[ProfileName, Profile] = {
    "2025": Profile(
        thinks_by_default=None,
        refuses_reasoning=True,
        wants_reasoning_back=False,
        thinking_has_logprobs=False,
        thinking_may_be_forced=True,
        thinking_temperature=0.6,  # what R1's authors advise
        thinking_top_p=0.95,
        thinking=TokenBudget(32_768, 65_536),
        plain=TokenBudget(4_096, 8_192),
    ),
    "2026": Profile(
        thinks_by_default=True,
        refuses_reasoning=False,
        wants_reasoning_back=True,
        thinking_has_logprobs=True,
        thinking_may_be_forced=False,
        thinking_temperature=1.0,
        thinking_top_p=1.0,
        thinking=TokenBudget(65_536, 393_216),
        plain=TokenBudget(8_192, 393_216),
    ),
}
