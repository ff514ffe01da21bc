"""Which tokens begin and end a sequence, read from what a checkpoint says about itself.

Pure functions over the config dictionaries; the tokenizer and the chat template both need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import GgufVocabulary, TokenizerSource
from tribody.text.gguf_vocabulary import CONTROL

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")

# A GGUF file has no generation_config, and often names only one of the tokens that end a turn.
# These control tokens end one in every model that has them.
_END_OF_TURN = frozenset(
    {
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|end|>",
        "<end_of_turn>",
        "<｜end▁of▁sentence｜>",
    }
)


def special_token_strings(source: TokenizerSource) -> dict[str, str]:
    """`bos_token`, `eos_token`, `unk_token`, `pad_token`: those that the checkpoint names.

    These are the variables that chat templates read.
    """
    if source.gguf_vocabulary is not None:
        return _from_vocabulary(source.gguf_vocabulary)
    found = {}
    for name in _NAMES:
        value = source.tokenizer_config.get(name)
        if isinstance(value, dict):  # an AddedToken written out
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _from_vocabulary(vocabulary: GgufVocabulary) -> dict[str, str]:
    ids = (
        vocabulary.bos_token_id,
        vocabulary.eos_token_id,
        vocabulary.unknown_token_id,
        vocabulary.padding_token_id,
    )
    return {
        name: vocabulary.tokens[token_id]
        for name, token_id in zip(_NAMES, ids, strict=True)
        if token_id is not None and 0 <= token_id < len(vocabulary.tokens)
    }


def gguf_end_ids(vocabulary: GgufVocabulary) -> frozenset[int]:
    """The ids that end a turn in a GGUF vocabulary: declared ones and well-known control tokens."""
    ends = {
        index
        for index, (token, kind) in enumerate(
            zip(vocabulary.tokens, vocabulary.token_types, strict=True)
        )
        if kind == CONTROL and token in _END_OF_TURN
    }
    for declared in (vocabulary.eos_token_id, vocabulary.eot_token_id):
        if declared is not None and 0 <= declared < len(vocabulary.tokens):
            ends.add(declared)
    return frozenset(ends)


def eos_token_ids(
    tokenizer_ends: frozenset[int],
    config: Mapping[str, object],
    generation_config: Mapping[str, object],
) -> frozenset[int]:
    """The ids that end generation.

    `eos_token_id` of generation_config.json wins over config.json's (as transformers does it);
    the tokenizer's own end token is always one of them.

    Raises: BadModel if an `eos_token_id` is neither an integer, nor a list of them, nor null.
    """
    for name, source in (("generation_config", generation_config), ("config", config)):
        value = source.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
            raise BadModel(
                f"{name}.json: eos_token_id is {str(value)[:80]}; it must be an integer or a list"
                " of integers"
            )
        return frozenset(ids) | tokenizer_ends
    return tokenizer_ends


def config_end_ids(
    source: TokenizerSource, token_to_id: Callable[[str], int | None]
) -> frozenset[int]:
    """The ids that end a turn according to the tokenizer's own files."""
    if source.gguf_vocabulary is not None:
        return gguf_end_ids(source.gguf_vocabulary)
    text = special_token_strings(source).get("eos_token")
    token_id = token_to_id(text) if text is not None else None
    return frozenset() if token_id is None else frozenset({token_id})
