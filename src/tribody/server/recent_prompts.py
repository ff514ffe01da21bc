"""Why a prompt was not found in the cache: it is compared with the caller's earlier ones.

The prefix cache finds whole pages of tokens that are equal from the first one on, of the same model
and cache salt (tenant and user).  Clients who wonder at a miss ask with `explain_cache: true` and
are told where their prompt began to differ from the most similar of their earlier ones.  What is
remembered is token ids in memory, bounded, and never of another salt.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from tribody.server.types import CacheDifference, CacheExplanation
from tribody.text.tokenizer import Tokenizer

MOST_TOKENS = 4 * 2**20  # of all that is remembered: 16 MiB
MOST_PROMPTS = 16  # of one salt
SHOWN_TOKENS = 8  # of the texts at the first difference

Key = tuple[str, str]  # model id, cache salt


class RecentPrompts:
    """The latest prompts of each salt; of all salts, those asked least recently go first."""

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most = most_tokens
        self._prompts: OrderedDict[Key, list[array[int]]] = OrderedDict()
        self._num_tokens = 0
        self._lock = threading.Lock()  # text threads meet here

    def remember(self, key: Key, token_ids: Sequence[int]) -> None:
        if len(token_ids) > self._most:
            return
        with self._lock:
            prompts = self._prompts.setdefault(key, [])
            self._prompts.move_to_end(key)
            prompts.append(array("i", token_ids))
            self._num_tokens += len(token_ids)
            if len(prompts) > MOST_PROMPTS:
                self._num_tokens -= len(prompts.pop(0))
            while self._num_tokens > self._most:
                oldest = next(iter(self._prompts))
                self._num_tokens -= len(self._prompts[oldest].pop(0))
                if not self._prompts[oldest]:
                    del self._prompts[oldest]

    def explain(
        self, key: Key, token_ids: Sequence[int], tokenizer: Tokenizer, unit_tokens: int
    ) -> CacheExplanation:
        """Compare with what is remembered; ask before `remember`."""
        with self._lock:
            earlier = list(self._prompts.get(key, ()))
        now = array("i", token_ids)
        best = max(earlier, key=lambda prompt: _num_equal(prompt, now), default=None)
        if best is None:
            return CacheExplanation(
                unit_tokens=unit_tokens,
                same_tokens=0,
                note="No earlier prompt of this key and user is remembered.",
            )
        same = _num_equal(best, now)
        if same == len(now):
            note = "An earlier prompt begins with all of this one."
        elif same < unit_tokens:
            note = f"The common beginning is shorter than a unit of {unit_tokens} tokens."
        else:
            units = same // unit_tokens
            note = (
                f"{units} whole units of {unit_tokens} tokens are equal; where fewer were found, "
                "they had been evicted or not yet been computed."
            )
        return CacheExplanation(
            unit_tokens=unit_tokens,
            same_tokens=same,
            note=note,
            first_difference=_difference(tokenizer, best, now, same),
        )


def _num_equal(first: array[int], second: array[int]) -> int:
    """Length of the common beginning, by halving: comparing arrays is fast, a loop is not."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _difference(
    tokenizer: Tokenizer, earlier: array[int], now: array[int], place: int
) -> CacheDifference | None:
    if place == len(now):
        return None
    before = tokenizer.decode(now[:place].tolist(), skip_special_tokens=False)
    texts = [
        tokenizer.decode(prompt[place : place + SHOWN_TOKENS].tolist(), skip_special_tokens=False)
        for prompt in (earlier, now)
    ]
    return CacheDifference(token=place, character=len(before), earlier=texts[0], now=texts[1])
