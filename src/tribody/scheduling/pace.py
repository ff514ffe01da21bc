"""How many prompt tokens a step takes while other sequences wait for their next token.

A prompt computed in one piece holds up everybody who streams.  So a step that decodes is kept
short: prompts may make it `stretch` times as long as it would be without them, drafts included.
Prompts then get 1 - 1 / stretch of the machine's time and streams the rest, however slow the
machine, and a stream's next token comes at most `stretch` steps late.  Where nothing decodes there
is nobody to hold up, and a step takes all that the budget allows.

Times are measured, not known: a step of n sequences that decode is taken to last decode(n), and
each chunk of a prompt adds token * (its tokens + reach * the context before it).  Prompts wait for
one step where n is unlike every load that was seen without them, or has not been for long.
Reading the context is paid again for each chunk (latent attention expands its keys: 0.2 tokens a
position on a model with V3's heads, 0.03 with plain attention); where it would be much of a
chunk's time it comes on top of what the stretch allows, and the chunk is not cut for it.

Everything here is a function of what it was told, so a replay decides alike; and no token depends
on it.  It trades a prompt's own delay, by at most stretch / (stretch - 1), for the streams'.
"""

from __future__ import annotations

from math import inf
from typing import Final

ROW_TILE: Final = 16  # rows that the matrix kernels take together (AMX tiles; others take fewer)
LEAST_TOKENS: Final = ROW_TILE
# A prompt goes on by so many tokens a step whatever that costs the others.  The weights are read
# for the sequences that decode anyway: a token costs no more in a small chunk.

LEAST_WORTH: Final = 2.0  # times the reading of its context: so long may a chunk's tokens take

ASK_STEPS: Final = 64  # steps with prompts in a row, after which one goes without

DECODE_WINDOW: Final = 10.0  # steps over which the time of decoding is averaged
PROMPT_WINDOW: Final = 16.0  # steps over which the time of prompts is averaged
SPREAD_WINDOW: Final = 64.0  # steps that tell a context's part from the tokens'
LEAST_SPREAD: Final = 0.1  # sine^2 between the two; steps that are all alike tell nothing
MOST_REACH: Final = 1.0  # tokens a position; what is measured beyond is taken for noise
LATEST: Final = 3.0  # times what was expected: a step that was interrupted counts as no later


class Room:
    """What one step has for prompts: ask for each chunk, and tell what it took."""

    __slots__ = ("context", "left", "most", "num_decoding", "num_tokens", "reach")

    def __init__(self, num_decoding: int, left: float, reach: float, most: int) -> None:
        """`left`: what may be added to the step, in the time of so many tokens."""
        self.num_decoding, self.left, self.reach, self.most = num_decoding, left, reach, most
        self.num_tokens = self.context = 0  # of the chunks so far; context positions before them

    def tokens(self, start: int) -> int:
        """Most tokens of a chunk that begins at this position; 0: it has to wait."""
        if self.left in (0.0, inf):
            return self.most if self.left else 0
        read = self.reach * start
        room = self.left - read
        if not self.num_tokens:
            room = max(room, min(LEAST_WORTH * read, self.left), LEAST_TOKENS)
        if room >= self.most:
            return self.most
        return max(0, int(room) // ROW_TILE * ROW_TILE)

    def take(self, start: int, num_tokens: int) -> None:
        if num_tokens:
            self.left -= num_tokens + self.reach * start
            self.num_tokens += num_tokens
            self.context += start


class PromptPace:
    """`room` before a step, `learn` after it."""

    def __init__(self, stretch: float, max_step_tokens: int) -> None:
        """`stretch` 0: no limit."""
        self._stretch = stretch
        self._most = max_step_tokens
        self._decode: dict[int, _Mean] = {}  # seconds of steps without prompts, by sequences
        self._mixed = 0  # steps with prompts since the last one without
        self._prompt = _PromptCost()

    def room(self, num_decoding: int) -> Room:
        """For prompts in a step beside so many sequences that decode."""
        nearest, token = self._nearest(num_decoding), self._prompt.token
        left = inf
        if self._stretch and num_decoding and token:
            if self._mixed and (self._mixed >= ASK_STEPS or not self._near(num_decoding)):
                left = 0.0
            elif nearest is not None:
                left = (self._stretch - 1) * self._decode[nearest].value / token
        return Room(num_decoding, left, self._prompt.reach, self._most)

    def learn(self, room: Room, num_drafts: int, seconds: float) -> None:
        """The time that a step took; 0 = not measured."""
        self._mixed = self._mixed + 1 if room.num_tokens else 0
        if not seconds:
            return
        num_decoding = room.num_decoding
        nearest, near = self._nearest(num_decoding), self._near(num_decoding)
        alone = 0.0 if nearest is None else self._decode[nearest].value
        if room.num_tokens:
            # Without a sequence that decodes, reading the weights still takes such a step's time.
            sure = near and not num_drafts
            self._prompt.add(room.num_tokens, room.context, max(0.0, seconds - alone), sure=sure)
        elif not num_drafts:
            self._decode.setdefault(num_decoding, _Mean(DECODE_WINDOW)).add(seconds)
        elif not near or seconds < alone:
            # Drafts only make a step longer: a bound, until the load is seen without them.
            self._decode.setdefault(num_decoding, _Mean(DECODE_WINDOW)).bound(seconds)

    def _nearest(self, num_decoding: int) -> int | None:
        """The most similar load that was measured; the lighter one of two."""
        if num_decoding in self._decode:
            return num_decoding
        return min(self._decode, key=lambda n: (abs(n - num_decoding), n), default=None)

    def _near(self, num_decoding: int) -> bool:
        """Whether it is so similar that its time will do."""
        nearest = self._nearest(num_decoding)
        return nearest is not None and abs(nearest - num_decoding) <= max(1, num_decoding // 4)


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

    def bound(self, value: float) -> None:
        """Stands in until a value comes; counts as one where it is lower than the mean."""
        if self.count:
            self.add(value)
        else:
            self.value = value


class _PromptCost:
    """Seconds that prompts add to a step: `token` for each token, and for each position of the
    context before a chunk `reach` times that.

    The level follows the recent steps; how it splits follows by least squares from more of them,
    and stays as it was while all are alike.
    """

    def __init__(self) -> None:
        self.token = self.reach = 0.0
        self._tokens = self._context = self._seconds = self._count = 0.0  # recent means
        self._xx = self._xc = self._cc = self._xy = self._cy = 0.0  # decaying sums

    def add(self, tokens: int, context: int, seconds: float, *, sure: bool) -> None:
        """The first that is not sure stands until something is."""
        if not sure:
            if not self.token:
                self.token = max(seconds / tokens, 1e-12)
            return
        if self._count:
            seconds = min(seconds, LATEST * self.seconds(tokens, context))
        self._count = min(self._count + 1, PROMPT_WINDOW)
        self._tokens += (tokens - self._tokens) / self._count
        self._context += (context - self._context) / self._count
        self._seconds += (seconds - self._seconds) / self._count
        self._fit(tokens, context, seconds)
        size = self._tokens + self.reach * self._context
        self.token = max(self._seconds / size, 1e-12)

    def seconds(self, tokens: int, context: int) -> float:
        return self.token * (tokens + self.reach * context)

    def _fit(self, x: float, c: float, y: float) -> None:
        keep = 1 - 1 / SPREAD_WINDOW
        self._xx, self._xc = keep * self._xx + x * x, keep * self._xc + x * c
        self._cc, self._xy = keep * self._cc + c * c, keep * self._xy + x * y
        self._cy = keep * self._cy + c * y
        spread = self._xx * self._cc - self._xc * self._xc
        if spread > LEAST_SPREAD * self._xx * self._cc:
            token = self._xy * self._cc - self._cy * self._xc
            context = self._cy * self._xx - self._xy * self._xc
            self.reach = min(max(context / token, 0.0), MOST_REACH) if token > 0 else MOST_REACH
