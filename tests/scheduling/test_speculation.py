"""The policy against machines whose costs are known: it must find what pays, and lose little."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tribody.core.config import DraftSource
from tribody.scheduling.speculation import Offer, Record, Speculation, load_class
from tribody.scheduling.step_costs import PROBE_STEPS, StepCosts


@dataclass
class World:
    """A machine and its texts: what steps cost in seconds, and how often drafts are right.

    A step of n sequences and x draft rows takes base + row * x, and module for each pass.
    """

    base: float
    row: float
    module: float = 0.0
    right: tuple[float, ...] = ()  # of the drafter's first, second, … draft
    found: float = 0.0  # share of steps in which a sequence's past suggests drafts
    found_right: float = 0.0
    noise: float = 0.0
    seed: int = 1
    seconds: float = 0.0
    tokens: int = 0
    drafted: list[int] = field(default_factory=list)  # draft rows of each step
    ran: list[int] = field(default_factory=list)  # passes of the drafter in each step

    def live(self, policy: Speculation, num_decoding: int, steps: int) -> float:
        """Tokens per second over these steps."""
        rng = random.Random(self.seed)
        records: list[dict[DraftSource, Record]] = [
            {"mtp": Record(), "ngram": Record()} for _ in range(num_decoding)
        ]
        seconds, tokens, guesses = 0.0, 0, 0
        for _ in range(steps):
            offers: list[tuple[Offer, Record]] = []
            policy.enter(num_decoding)
            look_up = "ngram" in policy.sources and policy.may_look_up()
            for mine in records:
                if guesses:
                    offers.append((Offer("mtp", 0, [1] * guesses), mine["mtp"]))
                elif look_up and rng.random() < self.found:
                    offers.append((Offer("ngram", 4, [1] * policy.max_drafts), mine["ngram"]))
            counts = policy.share_out(offers, 128) if offers or look_up else []
            passes = 0
            if "mtp" in policy.sources:
                passes = policy.num_passes([m["mtp"] for m in records], may_try=True)
            tokens += num_decoding
            for (offer, record), count in zip(offers, counts, strict=True):
                if not count:
                    continue
                good = 0
                while good < count and rng.random() < self._chance(offer, good):
                    good += 1
                tokens += good
                tried = Offer(offer.source, offer.grade, offer.token_ids[:count])
                policy.learn(tried, record, good, usual=True)
            step = (self.base + self.row * sum(counts)) * rng.uniform(1, 1 + self.noise)
            if rng.random() < 0.02 * bool(self.noise):
                step *= 4  # the machine did something else
            drafting = passes * self.module
            policy.learn_time(num_decoding, sum(counts), step + drafting, (passes, drafting))
            seconds += step + drafting
            guesses = passes
            self.drafted.append(sum(counts))
            self.ran.append(passes)
        return tokens / seconds

    def _chance(self, offer: Offer, depth: int) -> float:
        if offer.source == "ngram":
            return self.found_right
        return self.right[min(depth, len(self.right) - 1)]

    def best(self, num_decoding: int, max_drafts: int) -> float:
        """Tokens per second with the best fixed number of drafts by the drafter."""
        speeds = [num_decoding / self.base]
        chance, tokens = 1.0, 1.0
        for count in range(1, max_drafts + 1):
            chance *= self.right[min(count - 1, len(self.right) - 1)]
            tokens += chance
            step = self.base + count * (num_decoding * self.row + self.module)
            speeds.append(num_decoding * tokens / step)
        return max(speeds)


MTP: tuple[DraftSource, ...] = ("mtp",)
NGRAM: tuple[DraftSource, ...] = ("ngram",)


@pytest.mark.parametrize("num_decoding", [1, 2, 5, 16])
@pytest.mark.parametrize("right", [(0.94, 0.45), (0.85, 0.7), (0.5, 0.3), (0.1,)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_it_comes_close_to_the_best_fixed_choice(
    share: float, right: tuple[float, ...], num_decoding: int
) -> None:
    """`share`: of a step's time that grows with its rows.  A fixed choice needs no trials."""
    world = World(1.0, share / num_decoding, 0.1, right, noise=0.1)
    speed = world.live(Speculation(MTP, 4), num_decoding, 3000)
    best = world.best(num_decoding, 4) / (1 + world.noise / 2) / 1.06
    print(f"{speed / best:.3f}")
    assert speed >= 0.95 * best


@pytest.mark.parametrize("sources", [MTP, NGRAM, ("mtp", "ngram")])
def test_where_drafts_do_not_pay_they_cost_less_than_three_percent(
    sources: tuple[DraftSource, ...],
) -> None:
    """Sixteen sequences that fill the machine: a row costs what it is worth, the drafter more."""
    world = World(1.0, 1.0 / 16, 0.15, (0.7, 0.4), found=0.5, found_right=0.6)
    speed = world.live(Speculation(sources, 4), 16, 4000)
    assert speed >= 0.97 * 16
    late = world.drafted[1000:]
    assert sum(rows > 0 for rows in late) < 0.03 * len(late)
    assert sum(passes > 0 for passes in world.ran[1000:]) < 0.03 * len(late)
    assert any(late), "what is never tried stays wrong for ever"


def test_it_notices_that_drafts_begin_to_pay_and_that_they_cease_to() -> None:
    policy = Speculation(MTP, 4)
    dear = World(1.0, 1.0 / 8, 0.15, (0.9, 0.5))
    cheap = World(1.0, 0.02, 0.05, (0.9, 0.5))
    for world, pays in ((dear, False), (cheap, True), (dear, False), (cheap, True)):
        world.drafted.clear()
        world.live(policy, 8, 4000)
        late = world.drafted[-500:]
        with_drafts = sum(rows > 0 for rows in late) / len(late)
        assert with_drafts > 0.9 if pays else with_drafts < 0.1


def test_it_notices_that_the_drafter_has_become_right_further_on() -> None:
    """Second drafts were never right, then they are; only a trial can show it."""
    policy = Speculation(MTP, 4)
    short, far = (World(1.0, 0.05, 0.05, (0.9, second)) for second in (0.0, 0.9))
    for world, passes in ((short, 1), (far, 4)):
        world.live(policy, 1, 6000)
        late = world.ran[-1000:]
        assert sum(count == passes for count in late) > 0.9 * len(late)


@pytest.mark.parametrize("sources", [MTP, NGRAM, ("mtp", "ngram")])
def test_where_nothing_pays_nothing_is_asked(sources: tuple[DraftSource, ...]) -> None:
    policy = Speculation(sources, 4)
    world = World(1.0, 1.0 / 16, 0.15, (0.7, 0.4), found=0.5, found_right=0.6)
    world.live(policy, 16, 2000)
    rested = asked = paused = 0
    for _ in range(1000):
        policy.enter(16)
        paused += policy.pauses(16)  # what a step with prompts asks: it changes nothing
        assert not policy.pauses(1), "nothing is known of that load"
        if policy.rests():
            rested += 1
            policy.learn_time(16, 0, 1.0, (0, 0.0))
        else:
            asked += 1
            world.live(policy, 16, 1)
    assert rested > 0.85 * (rested + asked)
    assert asked > 1000 / PROBE_STEPS, "trials go on"
    assert paused >= rested


def test_loads_do_not_disturb_each_other() -> None:
    """One user with cheap rows and sixteen with dear ones, in turns of fifty steps."""
    policy = Speculation(MTP, 4)
    one = World(1.0, 0.1, 0.1, (0.9, 0.5))
    many = World(4.0, 0.25, 0.4, (0.9, 0.5))
    for _ in range(40):
        one.live(policy, 1, 50)
        many.live(policy, 16, 50)
    late = len(one.drafted) // 2
    assert sum(rows > 0 for rows in one.drafted[late:]) > 0.9 * late
    assert sum(rows > 0 for rows in many.drafted[late:]) < 0.1 * late


def test_a_text_that_is_predictable_is_drafted_for_beside_one_that_is_not() -> None:
    policy = Speculation(NGRAM, 8)
    good, bad = Record(), Record()
    counts = []
    for _ in range(600):
        offers = [(Offer("ngram", 4, [1] * 8), good), (Offer("ngram", 4, [1] * 8), bad)]
        policy.enter(2)
        given = policy.share_out(offers, 128)
        for (offer, record), count, num_right in zip(offers, given, (8, 0), strict=True):
            if count:
                tried = Offer("ngram", 4, offer.token_ids[:count])
                policy.learn(tried, record, min(count, num_right), usual=True)
        policy.learn_time(2, sum(given), 1.0 + 0.1 * sum(given), (0, 0.0))
        counts.append(given)
    late = counts[100:]
    assert sum(given[0] == 8 for given in late) > 0.95 * len(late)
    assert sum(given[1] for given in late) < 0.2 * len(late)
    assert any(given[1] for given in late), "a bad record is forgiven in time"


def test_likelier_drafts_come_first_when_there_is_room_for_few() -> None:
    policy = Speculation(("mtp", "ngram"), 8)
    offers = [
        (Offer("ngram", 2, [1, 2, 3]), Record()),
        (Offer("mtp", 0, [4, 5]), Record()),
        (Offer("ngram", 8, [6, 7, 8]), Record()),
    ]
    assert policy.share_out(offers, 3) == [0, 2, 1]
    assert policy.share_out(offers, 1) == [0, 1, 0]
    assert policy.share_out(offers, 0) == [0, 0, 0]


def test_steps_that_were_not_timed_teach_nothing() -> None:
    policy = Speculation(MTP, 4)
    assert policy.num_passes([], may_try=True) > 0, "one sequence: on from the first step"
    policy.learn_time(1, 2, 0.0, (1, 0.0))
    policy.enter(1)
    same = Speculation(MTP, 4)
    offers = [(Offer("mtp", 0, [1, 2, 3]), Record())]
    assert policy.share_out(offers, 8) == same.share_out(offers, 8)


def test_holes_in_the_drafters_keys_are_the_sequences_own_affair() -> None:
    policy, record = Speculation(MTP, 4), Record()
    before = policy.chances(Offer("mtp", 0, [7]), Record())
    for _ in range(50):
        policy.learn(Offer("mtp", 0, [1]), record, 0, usual=False)
    assert policy.chances(Offer("mtp", 0, [7]), Record()) == before
    assert record.ratio < 0.2
    assert policy.share_out([(Offer("mtp", 0, [1]), record)], 8) == [0]


def test_a_class_of_loads_holds_several_numbers_of_sequences() -> None:
    """From eight sequences to eleven steps get longer, which is no cost of drafts."""
    costs = StepCosts()
    rng = random.Random(3)
    for _ in range(400):
        num_decoding, rows = rng.randint(8, 11), rng.choice([0, 0, 11])
        costs.add(num_decoding, rows, 0.1 * (num_decoding + rows + 4))
    for num_decoding in (8, 11):
        base, row = costs.costs(num_decoding)
        assert row == pytest.approx(0.1, rel=0.05)
        assert base == pytest.approx(0.1 * (num_decoding + 4), rel=0.1)


def test_a_sequence_that_the_drafter_has_not_followed_is_doubted() -> None:
    policy, record = Speculation(MTP, 4), Record()
    world = World(1.0, 0.3, 0.3, (0.9, 0.2))
    world.live(policy, 1, 500)
    policy.enter(1)
    assert policy.num_passes([record], may_try=False) == 1
    record.doubt()
    assert policy.num_passes([record], may_try=False) == 0


def test_it_decides_alike_when_it_is_told_alike() -> None:
    worlds = [World(1.0, 0.06, 0.1, (0.8, 0.5), 0.3, 0.7, noise=0.3) for _ in range(2)]
    speeds = [world.live(Speculation(("mtp", "ngram"), 6), 6, 2000) for world in worlds]
    assert speeds[0] == speeds[1]
    assert worlds[0].drafted == worlds[1].drafted


def test_load_classes() -> None:
    classes = [load_class(n) for n in range(1, 200)]
    assert classes == sorted(classes)
    first = [n for n in range(1, 200) if n == 1 or classes[n - 1] != classes[n - 2]]
    assert first == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]
    assert PROBE_STEPS > 34, "two steps of a trial are less than 3 % of all"
