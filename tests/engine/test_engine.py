"""The loop of the engine with a scripted executor: stop strings, aborts, failures, books."""

from __future__ import annotations

import pytest

from tests.engine.model_folder import EOS, byte_tokenizer
from tribody.core.clock import ManualClock
from tribody.core.config import SchedulerConfig
from tribody.core.errors import EngineFailed
from tribody.core.request import (
    Event,
    Request,
    SampledToken,
    SamplingParams,
    StepPlan,
    StepResult,
)
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine.engine import Engine
from tribody.scheduling.scheduler import Scheduler
from tribody.text.tokenizer import Tokenizer


def tokenizer() -> Tokenizer:
    content = byte_tokenizer().to_str().encode()
    return Tokenizer.from_source(TokenizerSource(tokenizer_json=content))


class Script:
    """Every choice says the same text, byte by byte, then ends."""

    def __init__(self, text: str, clock: ManualClock) -> None:
        self.tokens = [*tokenizer().encode(text, add_special_tokens=False), EOS]
        self.clock = clock
        self.fails = False

    def run(self, plan: StepPlan) -> StepResult:
        self.clock.advance(0.5)
        if self.fails:
            raise EngineFailed("the machine is on strike")
        slots = [slot for chunk in plan.chunks for slot in chunk.samples]
        tokens = [SampledToken(s.sequence_id, self.tokens[s.position]) for s in slots]
        return StepResult(plan.step_id, tokens)


def engine_saying(text: str) -> tuple[Engine, Script]:
    config = SchedulerConfig(num_pages=50, max_context_tokens=1000, page_size=4)
    clock = ManualClock()
    script = Script(text, clock)
    scheduler = Scheduler(config, frozenset([EOS]), b"w")
    return Engine(scheduler, script, tokenizer, clock), script


def request(rid: str = "a", stop: tuple[str, ...] = (), **more: object) -> Request:
    params = SamplingParams(max_tokens=100, stop=stop)
    return Request(id=rid, prompt_token_ids=[1, 2, 3], sampling=params, **more)  # type: ignore[arg-type]


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.has_work():
        events += engine.step()
        engine.check()
    return events


def text_of(events: list[Event], choice: int = 0) -> str:
    ids = [t for e in events if e.choice == choice for t in e.token_ids]
    return tokenizer().decode(ids, skip_special_tokens=True)


def test_runs_until_the_end_token() -> None:
    engine, _ = engine_saying("hello")
    engine.submit(request())
    events = run(engine)
    assert text_of(events) == "hello"
    assert (events[-1].finish_reason, events[-1].ended_by_token) == ("stop", True)
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 6, "the end token was generated, so it counts"
    assert engine.stats().busy_seconds == pytest.approx(0.5 * 6)


@pytest.mark.parametrize(("stop", "length"), [("lo w", 7), ("你", 9), ("d!", 19)])
def test_a_stop_string_ends_the_choice_in_the_step_that_completes_it(stop: str, length: int):
    engine, _ = engine_saying("hello w" if stop == "lo w" else "hello 你好 world!")
    engine.submit(request(stop=(stop, "never")))
    events = run(engine)
    assert events[-1].finish_reason == "stop"
    assert not events[-1].ended_by_token
    assert sum(len(e.token_ids) for e in events) == length


def test_a_stop_string_is_found_across_a_resumption() -> None:
    engine, script = engine_saying("hello world")
    engine.submit(request(stop=("lo w",), resumed=(tuple(script.tokens[:5]),)))
    events = run(engine)
    assert len(events) == 2
    assert events[-1].finish_reason == "stop"
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 7


def test_an_abort_is_reported_with_the_next_step() -> None:
    engine, _ = engine_saying("hello")
    engine.submit(request(stop=("x",), n=2))
    engine.step()
    engine.abort("a")
    assert engine.has_work()
    events = engine.step()
    assert [e.finish_reason for e in events] == ["abort", "abort"]
    assert not engine.has_work()
    engine.check()


def test_a_step_that_fails_ends_every_request_with_an_error() -> None:
    engine, script = engine_saying("hello")
    engine.submit(request("a"))
    engine.submit(request("b", stop=("x",)))
    engine.step()
    script.fails = True
    events = engine.step()
    assert [(e.request_id, e.finish_reason) for e in events] == [("a", "error"), ("b", "error")]
    assert events[0].error == "the machine is on strike"
    script.fails = False
    engine.submit(request("c"))
    assert run(engine)[-1].finish_reason == "stop"
