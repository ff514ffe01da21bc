"""Speculation without judgement, to have drafts where the real policy would save them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tribody.core.config import DraftSource
from tribody.scheduling.speculation import Offer, Record, Speculation


class Eager(Speculation):
    """Every draft is taken and the drafter always runs."""

    def may_look_up(self) -> bool:
        return True

    def share_out(self, offers: Sequence[tuple[Offer, Record]], room: int) -> list[int]:
        counts = []
        for offer, _ in offers:
            counts.append(min(len(offer.token_ids), room))
            room -= counts[-1]
        return counts

    def num_passes(self, records: Sequence[Record], *, may_try: bool) -> int:
        return self.max_drafts


class Fickle(Eager):
    """Any number of drafts, at random."""

    def __init__(self, sources: tuple[DraftSource, ...], max_drafts: int, seed: int) -> None:
        super().__init__(sources, max_drafts)
        self._random = random.Random(seed)

    def share_out(self, offers: Sequence[tuple[Offer, Record]], room: int) -> list[int]:
        counts = super().share_out(offers, room)
        return [self._random.randint(0, count) for count in counts]

    def num_passes(self, records: Sequence[Record], *, may_try: bool) -> int:
        return self._random.randint(0, self.max_drafts)
