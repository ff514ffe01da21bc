"""Log probabilities in the API's two shapes: objects for chat, parallel lists for completions."""

from __future__ import annotations

from collections.abc import Sequence

from tribody.core.request import TokenLogprob
from tribody.server.rendering import finite
from tribody.server.types import CompletionLogprobs, LogprobEntry, TopLogprob
from tribody.text.tokenizer import Tokenizer


def entries(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> list[LogprobEntry]:
    """Chat's shape.  `bytes` is exact; `token` shows U+FFFD for half a character."""
    result = []
    for item in logprobs:
        data = tokenizer.token_bytes(item.token_id)
        top = []
        for token_id, logprob in item.top:
            top_data = tokenizer.token_bytes(token_id)
            top.append(TopLogprob(_text(top_data), finite(logprob), list(top_data)))
        result.append(LogprobEntry(_text(data), finite(item.logprob), list(data), top))
    return result


def parallel_lists(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob], offset: int, *, with_top: bool
) -> CompletionLogprobs:
    """Completions' shape; `offset` is the number of characters before the first token."""
    tokens = [_text(tokenizer.token_bytes(item.token_id)) for item in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    # Two tokens may show the same text (halves of characters): the likelier one is kept.
    top = [
        {_text(tokenizer.token_bytes(i)): finite(logprob) for i, logprob in reversed(item.top)}
        for item in logprobs
    ]
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[finite(item.logprob) for item in logprobs],
        top_logprobs=top if with_top else None,
        text_offset=offsets,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
