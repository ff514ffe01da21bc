"""Small vocabularies built on the spot, for tests that need no model."""

from __future__ import annotations

from tribody.core.tokenizer_source import GgufVocabulary, TokenizerSource
from tribody.text.gguf_vocabulary import (
    BYTE,
    CONTROL,
    USER_DEFINED,
    build,
    byte_level_alphabet,
)
from tribody.text.tokenizer import Tokenizer

NORMAL = 1
UNKNOWN = 2

_SPELLING = {byte: character for character, byte in byte_level_alphabet().items()}

# Byte strings that get a token of their own: ASCII, parts of characters, characters split from
# their neighbours' bytes, and a joint of a space with the first two bytes of a Chinese character.
_PIECES = [
    b"th",
    b"the",
    b" the",
    b"ing",
    b"STOP",
    b"ST",
    "你".encode(),
    "好".encode()[:2],
    " 好".encode()[:3],
    "👩".encode()[:3],
    "👩".encode(),
    b"\x8d\xe2",
    "\u0301".encode(),
    b"\n\n",
]


def spell(content: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    return "".join(_SPELLING[byte] for byte in content)


def byte_level(
    *, pre: str = "gpt-2", merges: list[str] | None = None, **changes: object
) -> GgufVocabulary:
    """All bytes, some longer pieces, two control tokens and `<think>`."""
    pieces = [spell(bytes([byte])) for byte in range(256)] + [spell(piece) for piece in _PIECES]
    tokens = [*pieces, "<|bos|>", "<|im_end|>", "<think>", "<｜eos▁token｜>"]
    types = [NORMAL] * len(pieces) + [CONTROL, CONTROL, USER_DEFINED, CONTROL]
    bos = len(pieces)
    fields: dict[str, object] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_types": types,
        "merges": ["t h", "th e", "Ġ the"] if merges is None else merges,
        "scores": [],
        "bos_token_id": bos,
        "eos_token_id": bos + 3,
        "unknown_token_id": None,
        "padding_token_id": None,
        "add_bos_token": True,
        "add_eos_token": None,
        "add_space_prefix": None,
    }
    return GgufVocabulary(**{**fields, **changes})  # type: ignore[arg-type]


def sentencepiece(**changes: object) -> GgufVocabulary:
    """SentencePiece BPE with byte fallback over a few letters."""
    words = ["▁", "a", "b", "c", "ab", "▁a", "▁ab", "▁ab▁", "你", "abc"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words)]
    scores = [0.0] * 259 + [-50.0, -51.0, -52.0, -53.0, -1.0, -2.0, -3.0, -4.0, -54.0, -5.0]
    fields: dict[str, object] = {
        "model": "llama",
        "pre": "",
        "tokens": tokens,
        "token_types": types,
        "merges": [],
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": None,
        "add_bos_token": None,
        "add_eos_token": None,
        "add_space_prefix": None,
    }
    return GgufVocabulary(**{**fields, **changes})  # type: ignore[arg-type]


def tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    return Tokenizer.from_source(TokenizerSource(gguf_vocabulary=vocabulary))


def as_tokenizer_json(vocabulary: GgufVocabulary) -> bytes:
    """The same tokenizer as a Hugging Face folder would hold it."""
    return build(vocabulary).to_str().encode()
