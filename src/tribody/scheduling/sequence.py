"""A sequence: one choice of one request on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from tribody.core.request import FinishReason, Request
from tribody.memory.kv_memory import PageTable


@dataclass(slots=True)
class Job:
    """One accepted request and its books: the only place where its usage is counted."""

    request: Request
    arrival: int
    cached_tokens: int | None = None  # set when the prompt is first admitted
    announced: bool = False  # the first event has been sent
    completion_tokens: int = 0
    live: set[int] = field(default_factory=set)  # choices without a finish reason


@dataclass(slots=True)
class Sequence:
    """Known tokens, how many of them are computed, and the pages that hold them.

    `choices`: before the prompt is computed one trunk stands for all live choices of its job; when
    it is, the trunk keeps the first and forks into the others.
    """

    id: int
    job: Job
    choice: int
    choices: list[int]
    generated: list[int]
    num_computed: int = 0
    table: PageTable | None = None

    @property
    def prompt(self) -> list[int]:
        return self.job.request.prompt_token_ids

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.generated)

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed yet; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_computed

    def tokens(self, first: int, end: int) -> list[int]:
        """Known tokens at positions [first, end)."""
        num_prompt = len(self.prompt)
        if end <= num_prompt:
            return self.prompt[first:end]
        if first >= num_prompt:
            return self.generated[first - num_prompt : end - num_prompt]
        return self.prompt[first:] + self.generated[: end - num_prompt]


def finish_reason(
    sequence: Sequence, token_id: int, eos_token_ids: frozenset[int], max_context: int
) -> FinishReason | None:
    """Whether the token just generated ends its choice; stop strings are the engine's business."""
    params = sequence.job.request.sampling
    if token_id in params.stop_token_ids:
        return "stop"
    if token_id in eos_token_ids and not params.ignore_eos:
        return "stop"
    if len(sequence.generated) >= params.max_tokens or sequence.num_tokens >= max_context:
        return "length"
    return None
