"""What the scheduler counts as long as it lives."""

from __future__ import annotations

from dataclasses import dataclass

from tribody.core.engine_info import EngineStats
from tribody.memory.pages import PagePool
from tribody.scheduling.drafting import DraftPlanner


@dataclass(slots=True)
class Books:
    """Counters that only grow; prompts are counted when they are first admitted."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0

    def stats(
        self,
        pool: PagePool,
        drafts: DraftPlanner,
        queues: tuple[int, int],
        times: tuple[float, float],
    ) -> EngineStats:
        """One record of everything.  `queues`: running, waiting; `times`: of the last step, of
        all."""
        return EngineStats(
            steps=self.steps,
            running=queues[0],
            waiting=queues[1],
            pages_total=pool.num_pages,
            pages_free=pool.num_free,
            pages_cached=pool.num_cached,
            pages_used=pool.num_used,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            preemptions=self.preemptions,
            drafted_tokens=drafts.num_drafted,
            accepted_tokens=drafts.num_accepted,
            step_seconds=times[0],
            busy_seconds=times[1],
        )
