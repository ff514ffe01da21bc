"""Token ids in, text out, one step at a time.

A token may hold part of a character (byte-level BPE, byte fallback), so some text has to wait;
everything else is passed on at once.  The pieces add up to the text that decoding all ids at once
would give, whatever the split.

It continues a prompt: a SentencePiece space before the first word is kept.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from tribody.text.tokenizer import Tokenizer

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one completion.  `push` costs time in the length of the new text only."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool = True,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        """`kept`: special tokens that are text nevertheless."""
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._kept = kept
        self._decoder = _utf8_decoder(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """Add tokens; the text that is now certain (often one word, sometimes "")."""
        tokenizer = self._tokenizer
        content = b"".join(
            tokenizer.token_bytes(token_id)
            for token_id in token_ids
            if not (self._skip_special_tokens and tokenizer.is_special(token_id))
            or token_id in self._kept
        )
        return self._decoder.decode(content)

    def finish(self) -> str:
        """The rest: bytes of an unfinished character become U+FFFD."""
        return self._decoder.decode(b"", final=True)
