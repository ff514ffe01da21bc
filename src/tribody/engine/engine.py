"""The engine: requests in, events out, one step at a time.  It knows neither arrays nor models.

One thread owns it.  It joins the scheduler (ids), the executor (arrays) and the text streams that
find stop strings, so that a request ends, and is counted, in the step that ended it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tribody.core.clock import Clock, MonotonicClock
from tribody.core.engine_info import EngineStats
from tribody.core.errors import EngineFailed
from tribody.core.request import Event, Request, StepPlan, StepResult
from tribody.engine.executor import Executor
from tribody.engine.guidance import Guidance, Ready
from tribody.scheduling.scheduler import Scheduler
from tribody.text.answer_stream import AnswerStream
from tribody.text.tokenizer import Tokenizer

COMPILE_WAIT_SECONDS = 0.02  # an engine with nothing to do but a grammar looks up so often


class Engine:
    """`submit` and `abort` requests; `step` until `has_work` is false."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        tokenizer: Callable[[], Tokenizer] | None,
        clock: Clock | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        """`tokenizer` is asked for by the first request with stop strings; None: there are none.

        `guidance`: what the executor draws by; None: its tokens follow no grammar.
        """
        self._scheduler = scheduler
        self._executor = executor
        self._tokenizer = tokenizer
        self._guidance = guidance
        self._clock = clock or MonotonicClock()
        self._streams: dict[tuple[str, int], AnswerStream] = {}
        self._pending: list[Event] = []
        self._step_seconds = self._busy_seconds = 0.0

    def submit(self, request: Request) -> None:
        """Accept a request.  Raises BadRequest if it can never run, Overloaded if it cannot now."""
        sampling = request.sampling
        guided = self._guidance is not None and sampling.grammar is not None
        self._scheduler.add(request, held=guided)
        if self._guidance is not None and guided:
            self._guidance.begin(request)
        if not sampling.stop:
            return
        assert self._tokenizer is not None, "stop strings need a tokenizer"
        for choice in range(request.n):
            stream = AnswerStream(
                self._tokenizer(), sampling.stop, sampling.thinking, sampling.markers
            )
            if choice < len(request.resumed):
                stream.push(request.resumed[choice])
            self._streams[request.id, choice] = stream

    def abort(self, request_id: str) -> None:
        """End a request early; its last events come with the next step.  Ignores unknown ids."""
        self._deliver(self._scheduler.abort(request_id))

    def has_work(self) -> bool:
        return bool(self._pending) or self._scheduler.num_unfinished > 0

    def step(self) -> list[Event]:
        """Run one step and return what happened, events of aborts since the last step first."""
        started = self._clock.now()
        if self._guidance is not None and self._guidance.is_preparing:
            busy = self._pending or self._scheduler.running or self._scheduler.waiting
            self._let_in(self._guidance.ready(0.0 if busy else COMPILE_WAIT_SECONDS))
        plan = self._scheduler.plan()
        if plan is not None:
            try:
                result = self._executor.run(plan)
            except EngineFailed as failure:
                self._deliver(self._scheduler.fail_all(str(failure)))
            else:
                stops = self._find_stops(plan, result)
                result.seconds = self._clock.now() - started
                self._deliver(self._scheduler.apply(plan, result, stops))
            self._step_seconds = self._clock.now() - started
            self._busy_seconds += self._step_seconds
        events, self._pending = self._pending, []
        return events

    def _let_in(self, ready: list[Ready]) -> None:
        """The grammars of these requests are there, or cannot be."""
        for request_id, problem in ready:
            if problem is None:
                self._scheduler.release(request_id)
            else:
                self._deliver(self._scheduler.fail(request_id, problem))

    def _find_stops(self, plan: StepPlan, result: StepResult) -> dict[tuple[str, int], int]:
        """(request id, choice) of those whose text now contains a stop string, and with which of
        the step's tokens (the first is 1) it came to do so."""
        if not self._streams:
            return {}
        stops: dict[tuple[str, int], int] = {}
        counts: Counter[tuple[str, int]] = Counter()
        slots = (slot for chunk in plan.chunks for slot in chunk.samples)
        for slot, token in zip(slots, result.tokens, strict=True):
            key = (slot.request_id, slot.choice)
            stream = self._streams.get(key)
            if stream is None or token.skipped or token.error is not None:
                continue
            counts[key] += 1
            stream.push([token.token_id])
            if stream.stopped:
                stops.setdefault(key, counts[key])
        return stops

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if event.finish_reason is not None:
                self._streams.pop((event.request_id, event.choice), None)
                if self._guidance is not None:
                    is_last = event.usage is not None
                    self._guidance.end(event.request_id, event.choice, is_last=is_last)
        self._pending += events

    def stats(self) -> EngineStats:
        return self._scheduler.stats(self._step_seconds, self._busy_seconds)

    def check(self) -> None:
        """Pages, queues and books agree; an AssertionError says that they do not."""
        self._scheduler.check()
        if self._scheduler.num_unfinished == 0:
            assert not self._streams
            if self._guidance is not None:
                self._guidance.check()
