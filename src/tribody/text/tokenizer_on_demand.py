"""A tokenizer that is built when somebody needs it.

The engine process works on token ids: it needs a vocabulary only to find stop strings, and building
one takes 0.15 s and 20 MB for 49,152 tokens.  Until then what the checkpoint says is kept encoded,
in a tenth of that.  Only the end tokens are looked up at once.
"""

from __future__ import annotations

import msgspec

from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.special_tokens import config_end_ids
from tribody.text.tokenizer import Tokenizer


class _Added(msgspec.Struct):
    id: int
    content: str


class _Description(msgspec.Struct):
    """What is read here of tokenizer.json."""

    added_tokens: list[_Added] = []


class TokenizerOnDemand:
    """`get` it; the first time takes as long as `Tokenizer.from_source`."""

    def __init__(self, source: TokenizerSource) -> None:
        """Raises: BadModel where the end token is found by building only, and that fails."""
        self._encoded = msgspec.msgpack.encode(source)
        self._built: Tokenizer | None = None
        added = _added_tokens(source)

        def token_id(text: str) -> int | None:
            known = added.get(text)
            return self.get().token_id(text) if known is None else known

        self.eos_token_ids = config_end_ids(source, token_id)

    def get(self) -> Tokenizer:
        """Raises: BadModel if there is no usable tokenizer."""
        if self._built is None:
            source = msgspec.msgpack.decode(self._encoded, type=TokenizerSource)
            self._built = Tokenizer.from_source(source)
        return self._built


def _added_tokens(source: TokenizerSource) -> dict[str, int]:
    """Ids of the tokens beside the model's own, where every end token is."""
    if source.tokenizer_json is None:
        return {}
    try:
        description = msgspec.json.decode(source.tokenizer_json, type=_Description)
    except msgspec.MsgspecError:
        return {}  # whoever builds it says what is wrong
    return {token.content: token.id for token in description.added_tokens}
