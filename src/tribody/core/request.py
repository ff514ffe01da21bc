"""The carriers that cross tribody's boundaries: Request and Event, StepPlan and StepResult.

`Request` and `Event` cross the process boundary (msgspec); `StepPlan` and `StepResult` stay inside
the engine process, between the scheduler (ids only) and the executor (arrays).  A new feature is a
field of one of these, not one more argument on every method on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]

Pooling = Literal["none", "mean"]

Priority = Literal["interactive", "background"]

Thinking = Literal["none", "may", "open"]
# An answer has no thinking in it, its model may open some, its prompt has opened it.


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen.  Ranges are checked by the server and by `tribody.LLM`, not here.

    `seed` is always present: a caller that gives none gets a drawn one, which is then kept with
    the request so that a restart continues the same random stream.  Random numbers are a function
    of (seed, choice, position) alone.

    Stop strings end the answer, not the thinking before it; `thinking` says where that is, and
    `markers` which special tokens are part of the text (those of tool calls).  Text that does not
    follow `grammar` (llguidance's, as `text.grammar` writes it) is not drawn.
    """

    max_tokens: int
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    seed: int = 0
    num_logprobs: int = -1  # -1 = none; 0..20 = the chosen token's and that many of the best
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    thinking: Thinking = "none"
    markers: tuple[str, ...] = ()
    grammar: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request: prompt token ids in, `n` choices out.

    `resumed` holds, after an engine restart, what each choice had already generated; the engine
    replays those tokens and continues.  `finished` names the choices that had already ended, and
    `resumed_cached_tokens` is the cache hit that the first event reported, which stays the usage's.
    `cache_salt` is the root of this request's prefix-cache keys: requests with different salts
    never share a page.

    With `pooling` nothing is generated (`max_tokens` is 0): the last event has an `embedding`.
    What has `background` priority runs where nothing interactive waits.  Tenants that wait get
    tokens as their requests' `weight`s are to each other (1 or more).
    """

    id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    n: int = 1
    cache_salt: str = ""
    resumed: tuple[tuple[int, ...], ...] = ()
    finished: tuple[int, ...] = ()
    resumed_cached_tokens: int | None = None
    pooling: Pooling = "none"
    priority: Priority = "interactive"
    tenant: str = ""
    weight: int = 1


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The natural-log probability of one generated token and of the `top` best at its place."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one request, from the scheduler's own books (never from re-tokenizing).

    `cached_tokens` of the `prompt_tokens` came from the prefix cache; `completion_tokens` are
    summed over all choices.  Not `prefilled`: the request ended before its prompt was computed to
    the end, and nothing of it counts.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prefilled: bool = True


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one choice of one request in one step.

    The first event of a request has `cached_tokens`; the last event of each choice has a
    `finish_reason`; the last event of the request has `usage` too.  `error` is set exactly when
    `finish_reason` is "error", and never holds user text.  Tokens of a stop string are in
    `token_ids` (they were generated and are counted); the text renderer cuts the text there.
    `ended_by_token`: the last id is an end-of-sequence or stop token, which is no part of the text.
    `embedding`: little-endian float32, of length 1, of a request with pooling.
    """

    request_id: str
    choice: int
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None
    cached_tokens: int | None = None
    ended_by_token: bool = False
    embedding: bytes | None = None


@dataclass(slots=True)
class SampleSlot:
    """One token to draw from the logits of a chunk's last row, or of a row with a draft after it.

    `generated` is the scheduler's own list: read it during the step, do not keep or change it.
    `drafts` follow it, as if they had been generated.  `position` counts both from 0 and is the
    random stream's counter.
    """

    sequence_id: int
    choice: int
    position: int
    params: SamplingParams
    prompt_token_ids: list[int]
    generated: list[int]
    request_id: str = ""
    drafts: list[int] = field(default_factory=list)

    def behind(self, drafts: list[int]) -> SampleSlot:
        """The draw after these drafts, for the draw of the token that they follow."""
        return SampleSlot(
            self.sequence_id,
            self.choice,
            self.position + len(drafts),
            self.params,
            self.prompt_token_ids,
            self.generated,
            self.request_id,
            drafts,
        )


@dataclass(slots=True)
class Chunk:
    """The tokens of one sequence that one step computes: positions [start, start + len(token_ids)).

    `page_table` covers positions [0, start + len(token_ids)).  `generated` says that these tokens
    were produced by the model (MLA then uses the absorbed form, so that a replay repeats the form
    that generated them); prompt tokens use the expanded form.  A chunk is never a mixture.
    `samples` is empty unless the last row's logits are wanted; several entries share the row when
    a prompt forks into n choices.

    The last `num_drafts` tokens are guesses.  Then `samples` has one entry more than there are
    guesses, for the last rows in their order, and each draws only if the entry before it drew the
    guess that its row computes.  `next_token_id` is the token after the chunk where it is known;
    a drafter reads it.

    `hidden_sum`, of a request with pooling: what the step before said of this sequence, "" at its
    start; then `StepResult.hidden_sums` says what it is with this chunk.
    """

    sequence_id: int
    token_ids: list[int]
    start: int
    page_table: list[int]
    generated: bool
    samples: list[SampleSlot] = field(default_factory=list)
    num_drafts: int = 0
    next_token_id: int | None = None
    hidden_sum: bytes | None = None


@dataclass(slots=True)
class StepPlan:
    """One step of the engine: ids only.  `page_copies` (source, target) come before all chunks.

    `draft_passes`: how many tokens the model's drafter is to draft for each sequence that drew;
    0: it does not run.
    """

    step_id: int
    chunks: list[Chunk]
    page_copies: list[tuple[int, int]] = field(default_factory=list)
    draft_passes: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(slots=True)
class SampledToken:
    """The outcome of one SampleSlot.

    `error` is set when no token could be drawn (logits that are not numbers); it ends this choice
    with an error and never holds user text.  `skipped`: the row followed a wrong guess, and there
    is no token.
    """

    sequence_id: int
    token_id: int
    logprob: TokenLogprob | None = None
    error: str | None = None
    skipped: bool = False


@dataclass(slots=True)
class StepResult:
    """What a step produced, in the order of the plan's sample slots.

    `drafts`: what the drafter guesses to follow, by sequence id.  `hidden_sums`: see `Chunk`; after
    a prompt's last token it is the embedding, or empty if that is not a vector of numbers.
    `seconds` are the step's, `draft_seconds` the drafter's part of them; 0 = not measured.
    """

    step_id: int
    tokens: list[SampledToken]
    drafts: dict[int, list[int]] = field(default_factory=dict)
    hidden_sums: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    draft_seconds: float = 0.0
