"""Prompt look-up: what followed the last tokens of a text when they occurred in it before.

It drafts well where an answer repeats its prompt or itself: quotations, edited code, tables, loops.
Token ids only, and no work per token that grows with the text: every pair of neighbours is chained
to its last occurrence, and a look-up follows a few links of one chain.

Source: A. Saxena, Prompt Lookup Decoding (2023); transformers' PromptLookupCandidateGenerator.
Theirs takes the first occurrence of the longest n-gram, this the latest of the longest it sees.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST_MATCH = 2  # one token alone is followed by anything
LONGEST_MATCH = 8  # longer ones are no surer
LINKS = 8  # earlier occurrences looked at: the newest, which are the likeliest to go on alike


class NgramIndex:
    """The tokens of one text so far; `extend` as it grows, `follow` to guess how it goes on."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._newest: dict[tuple[int, int], int] = {}  # pair -> position of its second token
        self._older: list[int] = []  # position -> the same pair's occurrence before it, or -1

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append tokens; a constant time for each."""
        tokens, newest, older = self._tokens, self._newest, self._older
        before = tokens[-1] if tokens else -1
        for position, token in enumerate(token_ids, len(tokens)):
            pair = (before, token)
            older.append(newest.get(pair, -1))
            newest[pair] = position
            before = token
        tokens.extend(token_ids)

    def follow(self, count: int) -> tuple[int, list[int]]:
        """(tokens matched, the `count` tokens after the match), or (0, []) without a match.

        Where the match overlaps the end, the text is taken to repeat itself.
        """
        end = len(self._tokens) - 1
        best_length, best_end = 0, -1
        match = self._older[end] if end > 0 else -1
        for _ in range(LINKS):
            if match < 1:
                break
            length = self._match_length(match, end)
            if length > best_length:
                best_length, best_end = length, match
                if length == LONGEST_MATCH:
                    break
            match = self._older[match]
        if not best_length:
            return 0, []
        period = end - best_end
        first = best_end + 1
        return best_length, [self._tokens[first + i % period] for i in range(count)]

    def _match_length(self, match: int, end: int) -> int:
        """How many tokens that end at these two positions are equal; two are."""
        tokens, length = self._tokens, SHORTEST_MATCH
        while (
            length < LONGEST_MATCH
            and length <= match
            and tokens[match - length] == tokens[end - length]
        ):
            length += 1
        return length
