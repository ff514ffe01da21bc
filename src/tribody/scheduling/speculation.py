"""Whether to draft, from which source and how many tokens: by what it is measured to bring.

A draft is one more row in a step.  It costs time, and it brings a token if it and those before it
are right.  Both are measured: how often drafts of a source are right, and how long steps take with
and without draft rows, for each load (number of sequences that decode).  Of all drafts at hand the
likeliest are taken, one by one, as long as they raise the step's expected tokens per second.  So
speculation is on for one user of a large model and goes off by itself where the rows of many users
already fill the machine; and of two users it may serve the one whose text is predictable.

What has no fresh measurement is tried: one step in PROBE_STEPS is made with drafts where they are
off, or without where they are on, or with one more than the drafter is worth.  Where nothing is
worth drafting the policy rests: it is asked for nothing but the next trial.  Everything here is a
function of what it was told, so a replay decides alike; and no token depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from tribody.core.config import DraftSource
from tribody.scheduling.step_costs import StepCosts

FIRST_GUESS: Final = {
    ("mtp", 0): 0.8,  # DeepSeek-V3's report: 85 to 90 % of second tokens
    ("ngram", 2): 0.4,
    ("ngram", 3): 0.6,
    ("ngram", 4): 0.8,
}
# How often a draft is right before any was checked, by source and grade.
GUESS_WEIGHT: Final = 8.0  # checked drafts that the first guess counts as
RATE_WINDOW: Final = 256.0  # checked drafts over which a rate is averaged
DEEPEST: Final = 3  # drafts from here on share one rate
LONGEST_GRADE: Final = 4  # n-gram matches from this length on are alike

GAIN: Final = 1.1
CROWD: Final = 4
CROWD_GAIN: Final = 1.3
# What a draft must be worth, in what it costs, alone and among CROWD sequences or more: near 1
# nothing is won and estimates are noisy, the more so where a draft row is one of many.

RECORD_WEIGHT: Final = 4.0  # drafts that a sequence's own record starts with, as usual
RECORD_KEPT: Final = 1 - 1 / 32  # of a record, draft by draft
FORGIVEN: Final = 0.01  # of a bad record, each time that it kept a draft out

FRUITLESS_LOOK_UPS: Final = 32  # steps without a right n-gram, after which look-ups are rationed
LOOK_UP_SECONDS: Final = 15e-6  # of one look-up and what comes with it (2-core Xeon, Python 3.11)
IDLE_SHARE: Final = 0.01  # of the time that rationed look-ups may take: shows below 2 ms a step

REST_STEPS: Final = 16  # from one look at whether drafts have begun to pay to the next
FIRST_MODULE_SHARE: Final = 0.125  # guess of a drafter's pass, in steps without drafts
HYSTERESIS: Final = 0.04  # of speed: a drafter that stops leaves holes in its sequences' keys


@dataclass(slots=True)
class Offer:
    """Tokens that may follow one sequence.  `grade` tells better finds of a source from worse."""

    source: DraftSource
    grade: int
    token_ids: list[int]


@dataclass(slots=True)
class Record:
    """How one sequence's drafts fared against what was expected of them."""

    hits: float = RECORD_WEIGHT
    expected: float = RECORD_WEIGHT

    @property
    def ratio(self) -> float:
        return self.hits / self.expected

    def doubt(self) -> None:
        """The drafter has missed a part of the sequence: half of what it was."""
        self.expected *= 2

    def forgive(self) -> None:
        self.hits += FORGIVEN * max(0.0, self.expected - self.hits)


@dataclass(slots=True)
class _Rate:
    """A moving average of hits, the plain mean while there are few."""

    value: float
    weight: float = GUESS_WEIGHT


class Speculation:
    """What the scheduler asks in each step, after `enter`, and tells after it."""

    def __init__(self, sources: tuple[DraftSource, ...], max_drafts: int) -> None:
        self.sources = sources
        self.max_drafts = max_drafts
        self.drafter_runs = False
        self._trial = False  # the drafter ran in the last step to have its drafts tried in this one
        self._rates = {
            (source, grade): _by_depth(guess, max_drafts)
            for (source, grade), guess in FIRST_GUESS.items()
        }
        self._module_rates = self._rates["mtp", 0]
        self._ngrams = [self._rates["ngram", grade][0] for grade in range(2, LONGEST_GRADE + 1)]
        self._fruitless = 0  # steps with look-ups since an n-gram was right
        self._saved = 0.0  # seconds that look-ups may take
        self._loads: dict[int, StepCosts] = {}
        self._module_share = FIRST_MODULE_SHARE
        self.enter(1)

    def enter(self, num_decoding: int) -> None:
        """A step of this load is to be planned, or asked about."""
        self._num_decoding = num_decoding
        self._gain = GAIN if num_decoding < CROWD else CROWD_GAIN
        self._now = self._load(num_decoding)
        self._base, self._row = self._now.costs(num_decoding)

    def rests(self) -> bool:
        """Whether there is nothing to ask in this step: drafts do not pay at this load, and no
        trial is due.  Counts the steps until it looks again."""
        load = self._now
        if not load.rest or self._trial:
            return False
        if "ngram" in self.sources and load.trial.due:
            return False
        if "mtp" in self.sources and load.module_trial.due:
            return False
        load.rest -= 1
        return True

    def pauses(self, num_running: int) -> bool:
        """Whether to ask nothing in a step that also holds prompts: as at the load that follows,
        which says nothing of when a trial is due."""
        return not self._trial and self._load(num_running).rest > 0

    def _rates_of(self, source: DraftSource, grade: int) -> list[_Rate]:
        """By depth, how often this source's drafts are right if those before them were."""
        return self._rates[source, grade if grade < LONGEST_GRADE else LONGEST_GRADE]

    def chances(self, offer: Offer, record: Record) -> list[float]:
        """How likely it is that this draft and all before it are right, for each draft."""
        chance, ratio, chances = 1.0, record.ratio, []
        rates = self._rates_of(offer.source, offer.grade)
        for depth in range(len(offer.token_ids)):
            own = rates[depth].value * ratio
            if own < 1.0:
                chance *= own
            chances.append(chance)
        return chances

    def may_look_up(self) -> bool:
        """Whether to look for n-grams in this step: if the best of them would be taken at this
        load and, while none was right of late, only in so many steps that it costs little."""
        load = self._now
        if not self._pays_to_look_up() and not load.trial.due:
            if "mtp" not in self.sources:
                load.rest = REST_STEPS
            return False
        self._fruitless += 1
        load.found *= 1 - 1 / FRUITLESS_LOOK_UPS
        pays = load.found >= LOOK_UP_SECONDS * self._num_decoding
        if pays and self._fruitless <= FRUITLESS_LOOK_UPS:
            return True
        self._saved += IDLE_SHARE * self._base
        if self._saved < LOOK_UP_SECONDS * self._num_decoding:
            return False
        self._saved = 0.0
        return True

    def _pays_to_look_up(self) -> bool:
        if "ngram" not in self.sources:
            return False
        best = max([rate.value for rate in self._ngrams])
        return best * self._base > self._gain * self._row * self._num_decoding

    def share_out(self, offers: Sequence[tuple[Offer, Record]], room: int) -> list[int]:
        """How many drafts of each offer the step takes, `room` at most in all.

        To be asked also where a look-up that was allowed has found nothing.
        """
        load, num_decoding = self._now, self._num_decoding
        counts = self._likeliest(offers, room)
        for (_, record), count in zip(offers, counts, strict=True):
            if not count:
                record.forgive()
        if load.trial.due and 2 * load.rows >= num_decoding:
            load.trial.done(num_decoding)
            counts = [0] * len(offers)
        elif self._trial:
            counts = _all_of(offers, room)
            if load.trial.due:
                load.trial.done(num_decoding)
        elif load.trial.due and not any(counts):
            load.trial.done(num_decoding)
            counts = [int(place < room) for place in range(len(offers))]
        self._trial = False
        return counts

    def _likeliest(self, offers: Sequence[tuple[Offer, Record]], room: int) -> list[int]:
        """As many drafts of each offer as raise the step's expected tokens per second."""
        counts = [0] * len(offers)
        ranked = [
            (chance, index)
            for index, (offer, record) in enumerate(offers)
            for chance in self.chances(offer, record)
        ]
        if len(offers) > 1:  # those of one are in order
            ranked.sort(key=itemgetter(0), reverse=True)
        tokens, seconds, row = float(self._num_decoding), self._base, self._row
        dear = self._gain * row
        for chance, index in ranked[:room]:
            if chance * seconds <= dear * tokens:
                break
            counts[index] += 1
            tokens += chance
            seconds += row
        return counts

    def num_passes(self, records: Sequence[Record], *, may_try: bool) -> int:
        """How many tokens the drafter is to draft for each sequence after this step; 0: none.

        `records`: those of the sequences that decode.
        """
        load, base = self._now, self._base
        module = load.module_seconds or self._module_share * base
        rows = self._num_decoding * self._row
        skill = 1.0
        if records:
            skill = sum([record.ratio for record in records]) / len(records)
        best, passes = 0.0, 0
        tokens, chance, seconds = 1.0, 1.0, base
        for depth in range(self.max_drafts):
            own = self._module_rates[depth].value * skill
            if own < 1.0:
                chance *= own
            if chance * (base + depth * rows) <= self._gain * rows * tokens:
                break  # it would not be taken
            tokens += chance
            seconds += rows + module
            speed = tokens / seconds
            if speed <= best:
                break
            best, passes = speed, depth + 1
        self._trial = False
        margin = -HYSTERESIS if self.drafter_runs else HYSTERESIS
        self.drafter_runs = best * base > 1 + margin
        if may_try and load.module_trial.due:
            load.module_trial.done(self._num_decoding)
            self._trial = True
            return min(passes + 1, self.max_drafts) if self.drafter_runs else 1
        if self.drafter_runs:
            return passes
        if not self._pays_to_look_up():
            load.rest = REST_STEPS
        return 0

    def learn(self, offer: Offer, record: Record, num_right: int, *, usual: bool) -> None:
        """The first `num_right` of the drafts that were tried, `offer.token_ids`, were right.

        `usual` False: the drafter worked with holes in its keys, which says nothing of others.
        """
        rates = self._rates_of(offer.source, offer.grade)
        if offer.source == "ngram":
            if num_right:
                self._fruitless = 0
            saved = num_right * self._base / self._num_decoding
            cost = len(offer.token_ids) * self._row
            self._now.found += (saved - cost) / FRUITLESS_LOOK_UPS
        hits, expected = record.hits, record.expected
        for depth in range(min(num_right + 1, len(offer.token_ids))):
            rate, hit = rates[depth], depth < num_right
            hits = RECORD_KEPT * hits + hit
            expected = RECORD_KEPT * expected + rate.value
            if usual:
                rate.weight = min(rate.weight + 1, RATE_WINDOW)
                rate.value += (hit - rate.value) / rate.weight
        record.hits, record.expected = hits, expected

    def learn_time(
        self, num_decoding: int, rows: int, seconds: float, drafting: tuple[int, float]
    ) -> None:
        """A step of decoding alone took `seconds`; `drafting`: the drafter's passes and its part.

        Steps that were not timed say 0 and teach nothing.
        """
        if seconds <= 0:
            return
        passes, module_seconds = drafting
        load = self._load(num_decoding)
        load.add(num_decoding, rows, seconds - module_seconds)
        load.module_trial.wait()
        if passes:
            load.add_module(module_seconds / passes)
            self._module_share = load.module_seconds / self._base

    def _load(self, num_decoding: int) -> StepCosts:
        key = load_class(num_decoding)
        found = self._loads.get(key)
        if found is None:
            found = self._loads[key] = StepCosts()
        return found


def _by_depth(guess: float, max_drafts: int) -> list[_Rate]:
    """A rate for each depth; those from DEEPEST on are one."""
    rates = [_Rate(guess) for _ in range(DEEPEST + 1)]
    return rates + rates[DEEPEST:] * max(0, max_drafts - len(rates))


def _all_of(offers: Sequence[tuple[Offer, Record]], room: int) -> list[int]:
    """All drafts, as far as there is room."""
    counts = []
    for offer, _ in offers:
        counts.append(min(len(offer.token_ids), room))
        room -= counts[-1]
    return counts


def load_class(num_decoding: int) -> int:
    """1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23, …: two classes from each power of two to the next."""
    bits = num_decoding.bit_length()
    return num_decoding if bits <= 2 else 2 * bits + (num_decoding >> (bits - 2) & 1)
