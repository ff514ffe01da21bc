"""What a step brought to a choice, and the event that says so."""

from __future__ import annotations

from dataclasses import dataclass

from tribody.core.request import Event, FinishReason, SampledToken, Usage
from tribody.scheduling.sequence import Job, Sequence


@dataclass(slots=True)
class Taken:
    """The tokens of one step that became part of a choice, and how it ended with them, if so."""

    tokens: list[SampledToken]
    finish: FinishReason | None = None
    error: str | None = None
    ended_by_token: bool = False
    embedding: bytes | None = None


def pool(sequence: Sequence, hidden_sum: bytes) -> Taken:
    """A chunk of a sequence with pooling is computed: the sum goes on, or is the embedding."""
    sequence.hidden_sum = hidden_sum
    if sequence.num_pending:
        return Taken([])
    if not hidden_sum:
        return Taken([], "error", "the hidden states are not numbers")
    return Taken([], "stop", embedding=hidden_sum)


def event_of(job: Job, choice: int, taken: Taken) -> Event:
    """The first event of a job tells its cache hit, the last one its usage.  Marks the job."""
    usage = None
    if taken.finish is not None and not job.live:
        usage = Usage(
            prompt_tokens=len(job.request.prompt_token_ids),
            cached_tokens=job.cached_tokens or 0,
            completion_tokens=job.completion_tokens,
            prefilled=job.prefilled,
        )
    cached = None if job.announced else job.cached_tokens
    job.announced = job.announced or cached is not None
    logprobs = [t.logprob for t in taken.tokens if t.logprob is not None]
    return Event(
        request_id=job.request.id,
        choice=choice,
        token_ids=[t.token_id for t in taken.tokens],
        logprobs=logprobs or None,
        finish_reason=taken.finish,
        usage=usage,
        error=taken.error,
        cached_tokens=cached,
        ended_by_token=taken.ended_by_token,
        embedding=taken.embedding,
    )
