"""How many prompt tokens a step takes while other sequences wait for their next token.

A prompt computed in one piece holds up everybody who streams.  So a step that decodes is kept
short: its prompt tokens may make it `stretch` times as long as it would be with next to none.
Prompts then get 1 - 1 / stretch of the machine's time and streams the rest, however slow the
machine, and a stream's next token comes at most `stretch` steps late.  Where nothing decodes there
is nobody to hold up, and a step takes all that the budget allows.

Times are measured, not known: a step of n sequences that decode and p prompt tokens is taken to
last decode(n) + fixed + p * token; a load n that was never seen
alone is taken for its neighbour.  `fixed` is what any prompt costs, however short its chunk
(latent attention expands the keys of the whole context): it lengthens what is allowed, since
shorter chunks would only pay it more often.

Everything here is a function of what it was told, so a replay decides alike; and no token depends
on it.  It trades a prompt's own delay, by at most stretch / (stretch - 1), for the streams'.
"""

from __future__ import annotations

from typing import Final

ROW_TILE: Final = 16  # rows that the matrix kernels take together (AMX tiles; others take fewer)
LEAST_TOKENS: Final = 2 * ROW_TILE
# A prompt goes on by so many tokens a step whatever that costs the others.  Below two tiles most of
# a step's time is reading the weights once more.

DECODE_WINDOW: Final = 10.0  # steps over which the time of decoding is averaged
PROMPT_WINDOW: Final = 16.0  # steps over which the time of prompts is averaged
SPREAD_WINDOW: Final = 32.0  # steps that tell the fixed part from the tokens' by their sizes
LEAST_SPREAD: Final = 0.2  # of the mean size; chunks of one size tell nothing
MOST_FIXED: Final = 0.75  # of a prompt's time; what is measured beyond is taken for noise
LATEST: Final = 3.0  # times what was expected: a step that was interrupted counts as no later


class PromptPace:
    """`share` before a step, `learn` after it."""

    def __init__(self, stretch: float, max_step_tokens: int) -> None:
        """`stretch` 0: no limit."""
        self._stretch = stretch
        self._most = max_step_tokens
        self._decode: dict[int, _Mean] = {}  # seconds of steps without prompts, by sequences
        self._prompt = _PromptCost()

    def share(self, num_decoding: int) -> int:
        """Prompt tokens that the next step may take beside so many sequences that decode."""
        known = self._nearest(num_decoding)
        if not self._stretch or not num_decoding or known is None or not self._prompt.seconds:
            return self._most
        fixed, token = self._prompt.split()
        room = (self._stretch - 1) * (self._decode[known].value + fixed)
        tiles = int(min(room / token, self._most)) // ROW_TILE
        return min(max(tiles * ROW_TILE, LEAST_TOKENS), self._most)

    def learn(self, num_decoding: int, num_prompt: int, seconds: float) -> None:
        """The time that a step took; 0 = not measured."""
        if not seconds:
            return
        if not num_prompt:
            if num_decoding not in self._decode:
                self._decode[num_decoding] = _Mean(DECODE_WINDOW)
            self._decode[num_decoding].add(seconds)
        else:
            # Without a sequence that decodes, reading the weights still takes such a step's time.
            known = self._nearest(num_decoding)
            near = known is not None and abs(known - num_decoding) <= max(1, num_decoding // 4)
            alone = 0.0 if known is None else self._decode[known].value
            self._prompt.add(num_prompt, max(0.0, seconds - alone), sure=near)

    def _nearest(self, num_decoding: int) -> int | None:
        """The most similar load that was measured; the lighter one of two."""
        if num_decoding in self._decode:
            return num_decoding
        return min(self._decode, key=lambda n: (abs(n - num_decoding), n), default=None)


class _Mean:
    """A moving average, the plain mean while there are few; no value counts as over LATEST times
    it."""

    __slots__ = ("count", "value", "window")

    def __init__(self, window: float) -> None:
        self.window, self.count, self.value = window, 0.0, 0.0

    def add(self, value: float) -> None:
        if self.count:
            value = min(value, LATEST * self.value)
        self.count = min(self.count + 1, self.window)
        self.value += (value - self.value) / self.count


class _PromptCost:
    """Seconds that prompts add to a step: a fixed part and one for each token.

    The level follows the recent steps; how it splits follows from chunks of unlike sizes by least
    squares over more of them, and stays as it was while all are alike.
    """

    def __init__(self) -> None:
        self.tokens = self.seconds = 0.0  # recent means
        self._count = 0.0
        self._fixed_share = 0.0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0  # decaying sums

    def add(self, num_tokens: int, seconds: float, *, sure: bool) -> None:
        """What is not sure stands until something is."""
        if not sure:
            if not self._count:
                self.tokens, self.seconds = num_tokens, seconds
            return
        if self._count:
            fixed, token = self.split()
            seconds = min(seconds, LATEST * (fixed + token * num_tokens))
        self._count = min(self._count + 1, PROMPT_WINDOW)
        self.tokens += (num_tokens - self.tokens) / self._count
        self.seconds += (seconds - self.seconds) / self._count
        self._fit(num_tokens, seconds)

    def _fit(self, x: float, y: float) -> None:
        keep = 1 - 1 / SPREAD_WINDOW
        self._weight = keep * self._weight + 1
        self._x, self._y = keep * self._x + x, keep * self._y + y
        self._xx, self._xy = keep * self._xx + x * x, keep * self._xy + x * y
        mean, late = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean * mean
        if late > 0 and variance > (LEAST_SPREAD * mean) ** 2:
            slope = (self._xy / self._weight - mean * late) / variance
            self._fixed_share = min(max(1 - slope * mean / late, 0.0), MOST_FIXED)

    def split(self) -> tuple[float, float]:
        """(the fixed part, one token's), both of a chunk of the recent mean size."""
        fixed = self._fixed_share * self.seconds
        return fixed, max((self.seconds - fixed) / self.tokens, 1e-12)
