"""Finding stop strings in a stream of text, holding back no more than necessary.

A match is the one that *ends* first, since generation ends there; of several that end at the same
character, the one that starts first.  The text is cut before it.
"""

from __future__ import annotations


class StopMatcher:
    """Cuts a stream before the first stop string, which is then `found`.

    One Knuth-Morris-Pratt automaton per stop string: its state is the length of the longest
    suffix of the text so far that begins the string, so the longest state is exactly the text
    that must be held back.  Time is linear in the text, whatever the stop strings look like.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        assert all(stop), "an empty stop string would match before the first character"
        self._stop = stop
        self._fallbacks = [_fallback_table(text) for text in stop]
        self._states = [0] * len(stop)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is now certain; "" once a stop string was seen."""
        if self.found is not None:
            return ""
        if not self._stop:
            return text
        buffered = self._held + text
        start = len(self._held)
        for offset, character in enumerate(text):
            matched = self._advance(character)
            if matched is not None:
                self.found = matched
                self._held = ""
                return buffered[: start + offset + 1 - len(matched)]
        keep = max(self._states)
        self._held = buffered[len(buffered) - keep :]
        return buffered[: len(buffered) - keep]

    def finish(self) -> str:
        """What was held back: no stop string follows any more."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Feed one character; the longest stop string that it completes, or None."""
        matched: str | None = None
        for index, stop in enumerate(self._stop):
            state = self._states[index]
            fallback = self._fallbacks[index]
            while state and stop[state] != character:
                state = fallback[state - 1]
            if stop[state] == character:
                state += 1
            if state == len(stop):
                matched = stop if matched is None or len(stop) > len(matched) else matched
                state = fallback[state - 1]
            self._states[index] = state
        return matched


def _fallback_table(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also a suffix."""
    table = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = table[length - 1]
        if text[index] == text[length]:
            length += 1
        table[index] = length
    return table
