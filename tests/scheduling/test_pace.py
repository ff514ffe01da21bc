"""The pace of prompts beside streams, on simulated machines whose times are known exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.scheduling.machine import Machine, make
from tribody.core.request import Request, SamplingParams, StepPlan, StepResult
from tribody.scheduling.pace import LEAST_TOKENS, ROW_TILE, PromptPace

MOST = 512


@dataclass
class Times:
    """Seconds of a step: what it costs with no row at all, for each row that decodes, for any
    prompt, and for each of its tokens."""

    base: float = 0.008
    row: float = 0.001
    fixed: float = 0.0
    token: float = 0.0005

    def step(self, num_decoding: int, num_prompt: int) -> float:
        prompt = self.fixed * (num_prompt > 0) + self.token * num_prompt
        return self.base + self.row * num_decoding + prompt


@dataclass
class Loop:
    """Clients that read a prompt and then stream, in a pattern that does not end."""

    times: Times
    pace: PromptPace
    draw: random.Random = field(default_factory=lambda: random.Random(4))
    noise: Callable[[float], float] = lambda seconds: seconds
    waiting: int = 0  # prompt tokens
    shares: list[int] = field(default_factory=list)
    mixed: list[float] = field(default_factory=list)  # stretches of steps with prompts

    def step(self, num_decoding: int) -> None:
        share = self.pace.share(num_decoding)
        assert min(LEAST_TOKENS, MOST) <= share <= MOST
        taken = min(self.waiting, share)
        self.waiting -= taken
        seconds = self.times.step(num_decoding, taken)
        self.pace.learn(num_decoding, taken, self.noise(seconds))
        if taken and num_decoding:
            alone = self.times.step(num_decoding, 0) + self.times.fixed
            self.shares.append(share)
            self.mixed.append(seconds / alone)

    def run(self, num_steps: int, loads: tuple[int, ...] = (16,)) -> None:
        for number in range(num_steps):
            if number % 9 == 0:
                self.waiting += self.draw.randrange(100, 400)
            self.step(self.draw.choice(loads))


def warmed(times: Times, stretch: float = 3.0, **more: object) -> Loop:
    """One request alone, as a server's first: its prompt, then its tokens."""
    loop = Loop(times, PromptPace(stretch, MOST), **more)  # type: ignore[arg-type]
    loop.waiting = 300
    loop.step(0)
    for _ in range(20):
        loop.step(1)
    return loop


def test_nothing_is_held_back_where_nobody_waits_or_nothing_is_known() -> None:
    pace = PromptPace(3.0, MOST)
    assert pace.share(4) == MOST
    pace.learn(4, 0, 0.02)
    assert pace.share(4) == MOST  # what a prompt costs is not known
    pace.learn(4, 100, 0.1)
    assert pace.share(4) < MOST
    assert pace.share(0) == MOST
    for _ in range(9):
        pace.learn(4, 100, 0.0)  # not measured
    assert pace.share(4) < MOST


def test_zero_is_no_limit() -> None:
    loop = warmed(Times(), stretch=0.0)
    loop.run(50)
    assert set(loop.shares) == {MOST}


@pytest.mark.parametrize("stretch", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("loads", [(1,), (16,), (2, 8, 16)])
def test_steps_stay_within_the_stretch(stretch: float, loads: tuple[int, ...]) -> None:
    loop = warmed(Times(), stretch)
    loop.run(60, loads)
    loop.mixed.clear()
    loop.run(300, loads)
    one_tile = ROW_TILE * loop.times.token / loop.times.step(min(loads), 0)
    least = 1 + LEAST_TOKENS * loop.times.token / loop.times.step(min(loads), 0)
    assert max(loop.mixed) <= max(stretch + one_tile, least + 1e-9)


def test_prompts_get_their_part_of_the_machine() -> None:
    """A prompt of any length takes at most stretch / (stretch - 1) times its own time, and a tile
    lost a step."""
    times = Times()
    loop = warmed(times)
    loop.run(60)
    loop.waiting, total, seconds = 4000, 4000, 0.0
    while loop.waiting:
        before = loop.waiting
        loop.step(16)
        seconds += times.step(16, before - loop.waiting)
    share = loop.pace.share(16)
    assert seconds <= total * times.token * 1.5 * share / (share - ROW_TILE)


def test_a_fixed_cost_makes_chunks_longer_not_shorter() -> None:
    """With one number for both, each small chunk would look dearer and the next be smaller."""
    plain, latent = warmed(Times()), warmed(Times(fixed=0.06))
    for loop in (plain, latent):
        loop.run(200)
    assert latent.pace.share(16) > 2 * plain.pace.share(16)
    latent.mixed.clear()
    latent.run(200)
    assert sorted(latent.mixed)[len(latent.mixed) // 2] <= 3.0 * 1.25


def test_chunks_of_one_size_do_not_drift() -> None:
    """No variety, nothing to tell the fixed part by: what was learnt stands."""
    loop = warmed(Times(fixed=0.03))
    loop.run(150)
    before = loop.pace.share(16)
    for _ in range(500):
        loop.waiting = MOST
        loop.step(16)
    assert abs(loop.pace.share(16) - before) <= 2 * ROW_TILE


def test_interruptions_do_not_starve_prompts() -> None:
    draw = random.Random(9)

    def noise(seconds: float) -> float:
        return seconds * draw.uniform(1.0, 1.2) + (0.4 if draw.random() < 0.03 else 0.0)

    quiet, noisy = warmed(Times()), warmed(Times(), noise=noise)
    for loop in (quiet, noisy):
        loop.run(400)
    assert min(noisy.shares[50:]) >= quiet.pace.share(16) / 3
    assert sum(noisy.shares[50:]) / len(noisy.shares[50:]) >= 0.6 * quiet.pace.share(16)


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_machine_that_changes_is_followed(factor: float) -> None:
    loop = warmed(Times())
    loop.run(200)
    loop.times.token *= factor
    loop.run(1500)
    exact = 2 * loop.times.step(16, 0) / loop.times.token
    expected = max(min(exact, MOST), LEAST_TOKENS)
    assert abs(loop.pace.share(16) - expected) <= max(0.25 * expected, ROW_TILE)


def test_a_load_that_was_never_seen_is_judged_by_its_neighbour() -> None:
    loop = warmed(Times())
    assert LEAST_TOKENS <= loop.pace.share(40) <= 64  # as for one: too little rather than too much
    for _ in range(20):
        loop.step(32)
    assert loop.pace.share(40) > 100


def streaming(name: str, prompt: list[int], max_tokens: int) -> Request:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return Request(id=name, prompt_token_ids=prompt, sampling=params)


def test_the_scheduler_keeps_the_pace_and_everybody_gets_on() -> None:
    """The real scheduler: streams never wait longer than the stretch, the long prompt is read."""
    times = Times(base=0.002, row=0.001, token=0.0005)
    scheduler = make(num_pages=400, page_size=16, max_step_tokens=256, max_running=8)
    scheduler.max_context = 2000
    stretches: list[float] = []

    class Timed(Machine):
        def result(self, plan: StepPlan) -> StepResult:
            decoding = sum(c.generated for c in plan.chunks)
            prompt = plan.num_tokens - decoding
            seconds = times.step(decoding, prompt)
            if prompt and decoding:
                stretches.append(seconds / times.step(decoding, 0))
            return StepResult(plan.step_id, [], seconds=seconds)

    machine = Timed(scheduler)
    for number in range(4):
        scheduler.add(streaming(f"s{number}", [number] * 20, max_tokens=400))
    for _ in range(10):
        machine.step()
    scheduler.add(streaming("long", [5] * 900, max_tokens=4))
    ended: list[str] = []
    for _ in range(700):
        ended += [e.request_id for e in machine.step() if e.usage is not None]
        scheduler.check()
    assert sorted(ended) == ["long", "s0", "s1", "s2", "s3"]
    slowest = 1 + (LEAST_TOKENS + ROW_TILE) * times.token / times.step(1, 0)
    assert stretches
    assert max(stretches) <= max(3.0, slowest)
