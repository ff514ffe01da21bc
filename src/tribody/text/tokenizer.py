"""Text to token ids and back, for any checkpoint.

Encoding is done by `tokenizers`.  Decoding is done here, on bytes: a token stands for a fixed byte
string (`token_bytes`), and text is the UTF-8 reading of their concatenation.  That makes streaming
(`detokenizer`) linear and exact, where decoding through the library would re-read the sequence for
every token.  Traded away: decoders that are not a byte mapping (WordPiece, `clean_up_tokenization_
spaces`) are refused or not applied.

Special tokens in text.  With `parse_special` (the default) the text `<|im_end|>` becomes the
control token, wherever it comes from: a rendered chat template needs that, and so a user who
writes a control token's text into a message injects that token, as in other OpenAI-compatible
servers.  With `parse_special=False` no added token is recognised and such text is ordinary text.
A rendered chat template already holds its beginning-of-sequence token: encode it with
`add_special_tokens=False`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import tokenizers

from tribody.core.errors import BadModel, BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text import gguf_vocabulary
from tribody.text.binding import is_binding_error
from tribody.text.special_tokens import config_end_ids, special_token_strings

MOST_SHORTENED = 4
# What a normalizer can make of as many bytes is at least one: no composition and no compatible form
# of Unicode is shorter than a fourth.

_ALPHABET = gguf_vocabulary.byte_level_alphabet()


class Tokenizer:
    """One model's tokenizer.  Safe to share between threads.

    vocab_size      one more than the highest token id
    bos_token_id    None when the model has none
    eos_token_ids   what the tokenizer's files call an end; see `special_tokens.eos_token_ids`
    """

    def __init__(self, inner: tokenizers.Tokenizer, source: TokenizerSource) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._plain: tokenizers.Tokenizer | None = None
        self._byte_level, self._strips_first_space = _decoder_kind(inner)
        added = inner.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._special = frozenset(index for index, token in added.items() if token.special)
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocab_size == 0:
            raise BadModel("the tokenizer has no tokens; the model folder is incomplete")
        self._bytes: dict[int, bytes] = {}
        self.bos_token_id = self._id_of(special_token_strings(source).get("bos_token"))
        self.eos_token_ids = config_end_ids(source, inner.token_to_id)
        self._prefix, self._suffix = self._frame(source)

    @classmethod
    def from_source(cls, source: TokenizerSource) -> Tokenizer:
        """Build from tokenizer.json or from a GGUF vocabulary.

        Raises: BadModel if there is neither, or if it cannot be read.
        """
        if source.gguf_vocabulary is not None:
            tokenizer = cls(gguf_vocabulary.build(source.gguf_vocabulary), source)
            # Two ids with one text leave the vocabulary short; the list's length is the truth.
            tokenizer.vocab_size = len(source.gguf_vocabulary.tokens)
            return tokenizer
        if source.tokenizer_json is None:
            raise BadModel("the model has no tokenizer: tokenizer.json is missing from its folder")
        return cls(_parse_tokenizer_json(source.tokenizer_json), source)

    def check_vocabulary(self, rows: int) -> None:
        """Refuse a tokenizer with ids that the embedding has no row for.

        More rows than tokens is normal: models pad their embedding to a round number.
        """
        if self.vocab_size > rows:
            raise BadModel(
                f"the tokenizer has {self.vocab_size} tokens but the model's embedding only"
                f" {rows} rows; the tokenizer belongs to another model"
            )

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        parse_special: bool = True,
        max_characters: int | None = None,
    ) -> list[int]:
        """Token ids of `text`.

        `add_special_tokens` adds what the model expects around a text (its bos, rarely an eos).
        `max_characters` bounds the time: encoding cannot be interrupted once it runs.

        Raises: BadRequest for text that is too long or that no UTF-8 can spell.
        """
        if max_characters is not None and len(text) > max_characters:
            raise BadRequest(
                f"the text has {len(text)} characters; the limit is {max_characters}: shorten it",
                param="prompt",
                code="context_length_exceeded",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"the text holds half a surrogate pair at character {error.start};"
                " send valid Unicode"
            ) from None
        inner = self._inner if parse_special else self._without_special()
        try:
            ids = inner.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except BaseException as error:
            if not is_binding_error(error):
                raise
            raise BadRequest("the text cannot be tokenized") from None
        if not add_special_tokens:
            return list(ids)
        return [*self._prefix, *ids, *self._suffix]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of a whole sequence; bytes that are not UTF-8 become U+FFFD.

        A SentencePiece model's space before the first word is dropped, as the model's tokenizer
        does; `detokenizer.TextStream`, which continues a prompt, keeps it.
        """
        text = b"".join(
            self.token_bytes(token_id)
            for token_id in ids
            if not (skip_special_tokens and token_id in self._special)
        ).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self._strips_first_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; b"" for a padding row that has no token."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    def longest_token_bytes(self) -> int:
        """The most bytes of a text that one token can stand for (at least 1)."""
        # No spelling is longer than the token's UTF-8, so few need be spelled.
        vocab = self._inner.get_vocab(with_added_tokens=True)
        likely = vocab[max(vocab, key=len)] if vocab else 0
        longest = max(1, len(self.token_bytes(likely)))
        longer = (i for token, i in vocab.items() if len(token.encode()) > longest)
        longest = max(longest, *(len(self.token_bytes(i)) for i in longer), 0)
        return longest * MOST_SHORTENED if _normalizes(self._inner) else longest

    def token_text(self, token_id: int) -> str:
        """A token's bytes as text, for display; incomplete characters show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def is_special(self, token_id: int) -> bool:
        """True for control tokens, which are no part of the text."""
        return token_id in self._special

    def token_id(self, token: str) -> int | None:
        """The id of the token that is spelled exactly so in the vocabulary."""
        return self._id_of(token)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._inner.token_to_id(token)

    def _spell(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode("utf-8")
        token = self._inner.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return b""
        if self._byte_level:
            if all(character in _ALPHABET for character in token):
                return bytes(_ALPHABET[character] for character in token)
            return token.encode("utf-8")
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass  # a token that only looks like a byte
        return token.replace("▁", " ").encode("utf-8")

    def _frame(self, source: TokenizerSource) -> tuple[list[int], list[int]]:
        """The ids that `add_special_tokens` puts before and after a text."""
        vocabulary = source.gguf_vocabulary
        if vocabulary is not None:
            add_bos = vocabulary.add_bos_token
            if add_bos is None:  # the defaults of GGUF's writers
                add_bos = vocabulary.model == "llama" or vocabulary.pre in (
                    "llama-bpe",
                    "llama3",
                    "llama-v3",
                )
            add_eos = vocabulary.add_eos_token is True
            prefix = [self.bos_token_id] if add_bos and self.bos_token_id is not None else []
            eos = vocabulary.eos_token_id
            return prefix, [eos] if add_eos and eos is not None else []
        bare = self._inner.encode("a", add_special_tokens=False).ids
        framed = self._inner.encode("a", add_special_tokens=True).ids
        start = next(
            (i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), len(framed)
        )
        prefix, suffix = framed[:start], framed[start + len(bare) :]
        # tokenizer_config.json overrules the post-processor: DeepSeek-V3's file has none that
        # adds a bos, and says add_bos_token.
        wants_bos = source.tokenizer_config.get("add_bos_token")
        if isinstance(wants_bos, bool) and self.bos_token_id is not None:
            prefix = [index for index in prefix if index != self.bos_token_id]
            if wants_bos:
                prefix = [self.bos_token_id, *prefix]
        return prefix, suffix

    def _without_special(self) -> tokenizers.Tokenizer:
        """A twin that reads every added token's text as ordinary text; built at first use."""
        if self._plain is None:
            description = json.loads(self._inner.to_str())
            for token in description["added_tokens"]:
                token["special"] = True  # only special ones can be switched off
            plain = tokenizers.Tokenizer.from_str(json.dumps(description))
            plain.encode_special_tokens = True
            self._plain = plain
        return self._plain


def _parse_tokenizer_json(content: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        if not is_binding_error(error):
            raise
        raise BadModel(f"tokenizer.json cannot be used: {str(error)[:200]}") from None


def _normalizes(inner: tokenizers.Tokenizer) -> bool:
    """Whether texts are changed before they are cut into tokens."""
    description = json.loads(inner.normalizer.__getstate__()) if inner.normalizer else None
    return description not in (None, {"type": "Sequence", "normalizers": []})


def _decoder_kind(inner: tokenizers.Tokenizer) -> tuple[bool, bool]:
    """(byte-level?, drops the first space?) of a tokenizer.

    Raises: BadModel for a decoder that is not a mapping of tokens to bytes.
    """
    description = json.loads(inner.decoder.__getstate__()) if inner.decoder else None
    steps = _flatten(description)
    kinds = {str(step.get("type")) for step in steps}
    if "ByteLevel" in kinds:
        return True, False
    sentencepiece = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if kinds and kinds <= sentencepiece and ("ByteFallback" in kinds or "Metaspace" in kinds):
        strips = any(
            (step.get("type") == "Strip" and step.get("start") == 1)
            or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
            for step in steps
        )
        return False, strips
    raise BadModel(
        f"tokenizer.json: the decoder {sorted(kinds) or 'null'} is not supported; supported are"
        " ByteLevel and SentencePiece's (Metaspace, ByteFallback)"
    )


def _flatten(description: object) -> list[dict[str, object]]:
    if not isinstance(description, dict):
        return []
    nested = description.get("decoders")
    if isinstance(nested, list):
        return [step for item in nested for step in _flatten(item)]
    return [description]
