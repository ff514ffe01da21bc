"""A GGUF file's vocabulary rebuilt as a `tokenizers` tokenizer.

GGUF stores the tokens, their types and merges (or scores), and only the *name* of the
pre-tokenizer's pattern.  The patterns below are those of the models' own tokenizer.json files, so
that a GGUF gives the ids of the model it was made from.  A name that is not known is refused: a
wrong pattern makes a model quietly worse, and nobody would notice.

Not here: special-token strings, end-of-sequence ids (`special_tokens`) and decoding (`tokenizer`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.decoders import Decoder
from tokenizers.pre_tokenizers import PreTokenizer

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import GgufVocabulary
from tribody.text.binding import is_binding_error

logger = logging.getLogger(__name__)

CONTROL = 3  # GGUF token types, see core/tokenizer_source.py
USER_DEFINED = 4
UNUSED = 5
BYTE = 6

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CJK = r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+"
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK)

# The cased letters that deepseek-llm's tokenizer.json lists (hexadecimal code points, inclusive
# ranges).  It is not \p{Lu}\p{Ll}\p{Lt}: among others the small Armenian letters are missing.
_DEEPSEEK_LLM_LETTERS = """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 37b-37d 37f
386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd
1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45
1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4
1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115
2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183-2184
2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2-2cf3 a640-a66d a680-a69b a722-a76f a771-a787
a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3
104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943
"""


def _character_class(ranges: str) -> str:
    parts = [part.split("-") for part in ranges.split()]
    return "[" + "".join("-".join(rf"\x{{{end}}}" for end in part) for part in parts) + "]"


_DEEPSEEK_LLM = (
    r"[\r\n]",
    r"\s?" + _character_class(_DEEPSEEK_LLM_LETTERS) + "+",
    r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
    # The model's file says `\s+$`.  The look-behind changes no split (the leftmost match always
    # begins a run of spaces) and makes a megabyte of spaces linear instead of quadratic.
    r"(?<!\s)\s++$",
    _CJK,
)


def _split(*patterns: str, digits: bool = False) -> PreTokenizer:
    """Isolate each pattern in turn, then single digits, then spell the rest as bytes."""
    steps: list[PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns
    ]
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def _gpt2(*, digits: bool = False) -> PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if not digits:
        return byte_level
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


_PATTERN_OF_PRE = {
    "": "gpt-2",
    "default": "gpt-2",
    "gpt-2": "gpt-2",
    "smollm": "smollm",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "deepseek-r1-qwen",
    "deepseek-llm": "deepseek-llm",
    "deepseek-coder": "deepseek-coder",
    "deepseek-v3": "deepseek-v3",
}


def _pre_tokenizer(pattern: str) -> PreTokenizer:
    match pattern:
        case "gpt-2":
            return _gpt2()
        case "smollm":
            return _gpt2(digits=True)
        case "llama-bpe":
            return _split(_LLAMA3)
        case "deepseek-llm":
            return _split(*_DEEPSEEK_LLM, digits=True)
        case "deepseek-coder":
            return _split(*_DEEPSEEK_CODER, digits=True)
        case "deepseek-v3":
            return _split(*_DEEPSEEK_V3)
        case _:
            return _split(_QWEN2)


def byte_level_alphabet() -> dict[str, int]:
    """The character that spells each byte in a byte-level vocabulary, as character -> byte.

    Printable Latin-1 spells itself; the other bytes take the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


def build(vocabulary: GgufVocabulary) -> Tokenizer:
    """The `tokenizers` tokenizer of a GGUF vocabulary; it adds no beginning-of-sequence token.

    Raises: BadModel for an unknown `tokenizer.ggml.model` or `.pre`, and for lists that do not
    fit each other.
    """
    num_tokens = len(vocabulary.tokens)
    if len(vocabulary.token_types) != num_tokens:
        raise BadModel(
            f"tokenizer.ggml.token_type has {len(vocabulary.token_types)} entries for"
            f" {num_tokens} tokens; the GGUF file is damaged, fetch it again"
        )
    try:
        if vocabulary.model == "gpt2":
            tokenizer = _build_byte_level(vocabulary)
        elif vocabulary.model == "llama":
            tokenizer = _build_sentencepiece(vocabulary)
        else:
            raise BadModel(
                f"tokenizer.ggml.model is {vocabulary.model!r}; supported are 'gpt2' and 'llama'"
            )
        _add_tokens(tokenizer, vocabulary)
    except BaseException as error:
        if not is_binding_error(error):
            raise
        raise BadModel(f"the GGUF vocabulary cannot be used: {str(error)[:200]}") from None
    return tokenizer


def _build_byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    pattern = _PATTERN_OF_PRE.get(vocabulary.pre)
    if pattern is None:
        raise BadModel(
            f"tokenizer.ggml.pre is {vocabulary.pre!r}; supported are"
            f" {', '.join(name for name in _PATTERN_OF_PRE if name)}"
        )
    if vocabulary.pre in ("", "default"):
        logger.warning("gguf_pre_tokenizer_unnamed assumed=gpt-2")
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = _checked_merges(vocabulary.merges, vocab)
    # Llama 3 looks a whole piece up before it merges: its tokenizer.json says ignore_merges.
    model = models.BPE(vocab=vocab, merges=merges, ignore_merges=pattern == "llama-bpe")
    tokenizer = Tokenizer(model)
    if pattern == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _checked_merges(merges: Sequence[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    pairs = []
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise BadModel(
                f"tokenizer.ggml.merges[{rank}] = {merge[:80]!r} does not join two tokens into a"
                " third; the GGUF file is damaged, fetch it again"
            )
        pairs.append((left, right))
    return pairs


def _build_sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise BadModel(
            f"tokenizer.ggml.scores has {len(vocabulary.scores)} entries for"
            f" {len(vocabulary.tokens)} tokens; a 'llama' vocabulary needs one each"
        )
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown_id = vocabulary.unknown_token_id
    unknown = None
    if unknown_id is not None and 0 <= unknown_id < len(vocabulary.tokens):
        unknown = vocabulary.tokens[unknown_id]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges_from_scores(vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix_space = vocabulary.add_space_prefix is not False
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix_space else spaces
    )
    steps: list[Decoder] = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if prefix_space:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_from_scores(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best score of the result first.

    SentencePiece stores no merges: it joins the neighbours whose result scores best.
    """
    usable = {
        token: score
        for token, score, kind in zip(
            vocabulary.tokens, vocabulary.scores, vocabulary.token_types, strict=True
        )
        if kind not in (CONTROL, BYTE, UNUSED)
    }
    ranked = []
    for token, score in usable.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                ranked.append((-score, -len(left), left, right))
    ranked.sort()
    return [(left, right) for _, _, left, right in ranked]


def _add_tokens(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Control tokens are special; user-defined ones (`<think>`) are whole but ordinary text."""
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.token_types, strict=True)
        if kind in (CONTROL, USER_DEFINED) and token
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
