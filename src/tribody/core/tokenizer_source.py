"""What a checkpoint says about its tokenizer, before anything is built from it.

`loading` fills these records, `text` builds a tokenizer and a chat template from them; neither
imports the other, so the records live here.  Nothing is checked beyond types and lengths: whether
a merge names existing tokens is for the tokenizer's builder to find.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GgufVocabulary:
    """The vocabulary that a GGUF file carries in its `tokenizer.ggml.*` keys.

    `tokens`, `token_types` and (if not empty) `scores` are parallel, indexed by token id.
    `token_types` uses GGUF's numbers: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused,
    6 byte; a file without types reads as all 1.  `merges` are "left right" pairs in rank order.
    """

    model: str  # tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece)
    pre: str  # tokenizer.ggml.pre: the name of the pre-tokenizer's pattern; "" when absent
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    scores: list[float]
    bos_token_id: int | None
    eos_token_id: int | None
    unknown_token_id: int | None
    padding_token_id: int | None
    add_bos_token: bool | None  # None: the file does not say
    add_eos_token: bool | None
    add_space_prefix: bool | None
    eot_token_id: int | None = None  # end of turn, where it differs from end of sequence


@dataclass(frozen=True)
class TokenizerSource:
    """Everything a checkpoint holds about text: `tokenizer_json` for a folder (None when the
    file is absent; `text` then says so), `gguf_vocabulary` for a GGUF file.

    tokenizer_json     bytes of tokenizer.json (Hugging Face folder), not yet parsed
    tokenizer_config   content of tokenizer_config.json, {} when absent
    chat_template      the Jinja source (chat_template.jinja, the config's key or the GGUF's key)
    gguf_vocabulary    set for GGUF files
    """

    tokenizer_json: bytes | None = None
    tokenizer_config: dict[str, object] = field(default_factory=dict)
    chat_template: str | None = None
    gguf_vocabulary: GgufVocabulary | None = None
