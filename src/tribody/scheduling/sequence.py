"""A sequence: one choice of one request on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from tribody.core.config import DraftSource
from tribody.core.request import FinishReason, Request, SampleSlot
from tribody.memory.kv_memory import PageTable
from tribody.scheduling.ngram import NgramIndex
from tribody.scheduling.speculation import Offer, Record


@dataclass(slots=True)
class Job:
    """One accepted request and its books: the only place where its usage is counted."""

    request: Request
    arrival: int
    cached_tokens: int | None = None  # set when the prompt is first admitted
    announced: bool = False  # the first event has been sent
    prefilled: bool = False  # the prompt has been computed to its end, once
    completion_tokens: int = 0
    live: set[int] = field(default_factory=set)  # choices without a finish reason
    start_tag: int | None = None  # since it was first admitted; see `fairness`
    expected_tokens: int = 0  # of its completions

    @classmethod
    def of(cls, request: Request, arrival: int) -> Job:
        """As it comes, or comes again: then its first event has been sent, so that its prompt had
        been computed."""
        had_begun = request.resumed_cached_tokens is not None
        return cls(
            request,
            arrival,
            cached_tokens=request.resumed_cached_tokens,
            announced=had_begun,
            prefilled=had_begun,
            completion_tokens=sum(map(len, request.resumed)),
            live=set(range(request.n)) - set(request.finished),
        )

    @property
    def place(self) -> int:
        """Its start tag, once it has one."""
        assert self.start_tag is not None
        return self.start_tag


@dataclass(slots=True)
class Drafting:
    """What helps to guess one sequence's next tokens.  It may be lost at any time without harm.

    `guesses` are the model's drafter's, made when `guessed_at` tokens were known.  The drafter has
    followed the sequence in positions [0, followed_to) (pages from the prefix cache are taken to
    hold its keys too); it drafts worse where it missed some (`has_holes`).  `tried` is what the
    step under way computes.
    """

    guesses: list[int] = field(default_factory=list)
    guessed_at: int = 0
    followed_to: int = 0
    has_holes: bool = False
    index: NgramIndex = field(default_factory=NgramIndex)
    records: dict[DraftSource, Record] = field(
        default_factory=lambda: {"mtp": Record(), "ngram": Record()}
    )
    tried: Offer | None = None


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
    drafting: Drafting = field(default_factory=Drafting)
    hidden_sum: bytes = b""  # over the positions that are computed, where they are pooled

    @property
    def is_pooled(self) -> bool:
        return self.job.request.pooling != "none"

    @property
    def is_background(self) -> bool:
        return self.job.request.priority == "background"

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

    def token_at(self, position: int) -> int | None:
        """The token at `position` if it is known."""
        tokens = self.tokens(position, position + 1)
        return tokens[0] if tokens else None

    def is_known_beyond_prompt(self, choice: int) -> bool:
        """Whether this choice has generated tokens to replay before the next one is drawn."""
        if choice == self.choice:
            return bool(self.generated)
        resumed = self.job.request.resumed
        return choice < len(resumed) and bool(resumed[choice])

    def slot(self, choice: int) -> SampleSlot:
        """The draw of this choice's next token."""
        request = self.job.request
        generated = self.generated if choice == self.choice else []
        return SampleSlot(
            sequence_id=self.id,
            choice=choice,
            position=len(generated),
            params=request.sampling,
            prompt_token_ids=request.prompt_token_ids,
            generated=generated,
            request_id=request.id,
        )


def order(sequence: Sequence) -> tuple[bool, int, int, int]:
    """Of those that were admitted: what is in the background last, then as they were admitted,
    which for one tenant's is by arrival."""
    job = sequence.job
    return (sequence.is_background, job.place, job.arrival, sequence.choice)


def finish_reason(
    sequence: Sequence, token_id: int, eos_token_ids: frozenset[int], max_context: int
) -> FinishReason | None:
    """Whether the token just generated ends its choice; stop strings are the engine's business."""
    params = sequence.job.request.sampling
    if token_id in params.stop_token_ids:
        return "stop"
    # Where a grammar is over nothing but an end token can follow.
    if token_id in eos_token_ids and (not params.ignore_eos or params.grammar is not None):
        return "stop"
    if len(sequence.generated) >= params.max_tokens or sequence.num_tokens >= max_context:
        return "length"
    return None
