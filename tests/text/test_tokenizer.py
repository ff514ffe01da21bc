"""The tokenizer: ids, bytes, special tokens, limits and refusals."""

from __future__ import annotations

import json
import time
import unicodedata

import pytest

from tests.text.vocabularies import as_tokenizer_json, byte_level, sentencepiece, tokenizer
from tribody.core.errors import BadModel, BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.tokenizer import MOST_SHORTENED, Tokenizer

TEXTS = ["", " ", "the thing", "你好 👩‍👩‍👧‍👦 e\u0301", "\n\n\t x", "a\x00b", "<|im_end|> <think>"]


@pytest.fixture(scope="module")
def subject() -> Tokenizer:
    return tokenizer(byte_level())


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(subject: Tokenizer, text: str) -> None:
    for parse_special in (True, False):
        ids = subject.encode(text, add_special_tokens=False, parse_special=parse_special)
        assert subject.decode(ids, skip_special_tokens=False) == text


def test_tokenizer_json_gives_the_same_tokenizer() -> None:
    vocabulary = byte_level()
    from_gguf = tokenizer(vocabulary)
    config = {"bos_token": {"content": "<|bos|>"}, "eos_token": "<｜eos▁token｜>"}
    source = TokenizerSource(tokenizer_json=as_tokenizer_json(vocabulary), tokenizer_config=config)  # type: ignore[arg-type]
    from_json = Tokenizer.from_source(source)
    assert from_json.vocab_size == from_gguf.vocab_size
    assert from_json.bos_token_id == from_gguf.bos_token_id
    assert from_json.eos_token_ids == {from_gguf.vocab_size - 1}
    for text in TEXTS:
        ids = from_gguf.encode(text, add_special_tokens=False)
        assert from_json.encode(text, add_special_tokens=False) == ids
    for token_id in range(from_gguf.vocab_size):
        assert from_json.token_bytes(token_id) == from_gguf.token_bytes(token_id)
        assert from_json.is_special(token_id) == from_gguf.is_special(token_id)


def test_special_tokens_are_parsed_only_when_asked(subject: Tokenizer) -> None:
    text = "x<|im_end|><think>"
    parsed = subject.encode(text, add_special_tokens=False)
    plain = subject.encode(text, add_special_tokens=False, parse_special=False)
    assert len(parsed) == 3
    assert subject.decode(parsed, skip_special_tokens=True) == "x<think>"
    assert not any(subject.is_special(token_id) for token_id in plain)
    assert len(plain) > 10


@pytest.mark.parametrize(
    ("config", "starts_with_bos"),
    [({}, False), ({"add_bos_token": True}, True), ({"add_bos_token": False}, False)],
)
def test_tokenizer_config_decides_about_bos(
    config: dict[str, object], starts_with_bos: bool
) -> None:
    content = as_tokenizer_json(byte_level())
    config = {"bos_token": "<|bos|>", **config}
    subject = Tokenizer.from_source(
        TokenizerSource(tokenizer_json=content, tokenizer_config=config)
    )
    ids = subject.encode("the", add_special_tokens=True)
    assert (ids[0] == subject.bos_token_id) is starts_with_bos
    assert ids[-1] == subject.encode("the", add_special_tokens=False)[-1]


@pytest.mark.parametrize(
    ("changes", "frame"),
    [
        ({"add_bos_token": None}, 0),
        ({"add_bos_token": None, "pre": "llama-bpe"}, 1),
        ({"add_bos_token": False, "pre": "llama-bpe"}, 0),
        ({"add_bos_token": True, "add_eos_token": True}, 2),
        ({"add_bos_token": True, "bos_token_id": None}, 0),
    ],
)
def test_gguf_decides_about_bos_and_eos(changes: dict[str, object], frame: int) -> None:
    subject = tokenizer(byte_level(**changes))  # type: ignore[arg-type]
    assert len(subject.encode("a", add_special_tokens=True)) == 1 + frame


def test_truncation_and_padding_in_the_file_are_not_applied() -> None:
    description = json.loads(as_tokenizer_json(byte_level()))
    description["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    subject = Tokenizer.from_source(
        TokenizerSource(tokenizer_json=json.dumps(description).encode())
    )
    assert len(subject.encode("x" * 50, add_special_tokens=True)) == 50


def test_check_vocabulary(subject: Tokenizer) -> None:
    subject.check_vocabulary(subject.vocab_size)
    subject.check_vocabulary(subject.vocab_size + 100)
    with pytest.raises(BadModel, match="the model's embedding only"):
        subject.check_vocabulary(subject.vocab_size - 1)


def test_no_token_stands_for_more_of_a_text(subject: Tokenizer) -> None:
    """Also where what it stands for is shorter than the text was."""
    description = json.loads(as_tokenizer_json(byte_level()))
    plain = subject.longest_token_bytes()
    assert plain == max(len(subject.token_bytes(i)) for i in range(subject.vocab_size))
    nothing = {"type": "Sequence", "normalizers": []}
    for normalizer, factor in ((None, 1), (nothing, 1), ({"type": "NFKC"}, MOST_SHORTENED)):
        description["normalizer"] = normalizer
        source = TokenizerSource(tokenizer_json=json.dumps(description).encode())
        known = Tokenizer.from_source(source)
        assert known.longest_token_bytes() == plain * factor
        for text in (*TEXTS, "𝐭𝐡𝐞 𝐭𝐡𝐢𝐧𝐠", "\u1100\u1161\u11a8" * 9, "\u03b1\u0313\u0300\u0345"):
            ids = known.encode(text, add_special_tokens=False)
            assert len(ids) * known.longest_token_bytes() >= len(text.encode())


def test_no_form_of_unicode_is_shorter_than_is_thought() -> None:
    hangul = range(0xAC00, 0xD7A4)  # has no entry in the table of decompositions
    changed = [c for c in map(chr, range(0x110000)) if unicodedata.decomposition(c)]
    for character in [*changed, *map(chr, hangul)]:
        for text in (character, unicodedata.normalize("NFD", character)):
            shortest = len(unicodedata.normalize("NFKC", text).encode())
            assert len(text.encode()) <= MOST_SHORTENED * shortest


def test_ids_without_a_token_are_empty(subject: Tokenizer) -> None:
    assert subject.token_bytes(subject.vocab_size) == b""
    assert subject.token_bytes(10**9) == b""
    assert subject.decode([subject.vocab_size + 5], skip_special_tokens=True) == ""


def test_invalid_bytes_become_replacement_characters(subject: Tokenizer) -> None:
    assert subject.decode([0xE4, 0xBD, ord("a"), 0xFF], skip_special_tokens=True) == "\ufffda\ufffd"
    assert subject.token_text(0xE4) == "\ufffd"


def test_text_limits(subject: Tokenizer) -> None:
    with pytest.raises(BadRequest, match="11 characters; the limit is 10"):
        subject.encode("x" * 11, add_special_tokens=False, max_characters=10)
    with pytest.raises(BadRequest, match="surrogate pair at character 1"):
        subject.encode("a\ud83d", add_special_tokens=False)


class PanicException(BaseException):
    """Stands for the binding's, which is no `Exception` either."""


def test_a_panic_of_the_binding_is_a_bad_request(subject: Tokenizer) -> None:
    """A Rust panic is a BaseException: uncaught it would have ended the server."""

    class Panicking:
        def encode_batch_fast(self, *_: object, **__: object) -> None:
            raise PanicException("index out of bounds")

    broken = tokenizer(byte_level())
    broken._inner = Panicking()  # type: ignore[assignment]
    with pytest.raises(BadRequest, match="cannot be tokenized"):
        broken.encode("x", add_special_tokens=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tokenizer.json cannot be used"),
        (b"[]", "tokenizer.json cannot be used"),
        (b"\xff\xfe", "tokenizer.json cannot be used"),
        (b'{"model": {"type": "BPE"}}', "tokenizer.json cannot be used"),
        (b'{"version": "1.0", "model": {"type": "Nope"}}', "tokenizer.json cannot be used"),
    ],
)
def test_refuses_damaged_tokenizer_json(content: bytes, message: str) -> None:
    with pytest.raises(BadModel, match=message):
        Tokenizer.from_source(TokenizerSource(tokenizer_json=content))


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}])
def test_refuses_decoders_that_are_no_byte_mapping(decoder: object) -> None:
    description = json.loads(as_tokenizer_json(byte_level()))
    description["decoder"] = decoder
    with pytest.raises(BadModel, match="decoder"):
        Tokenizer.from_source(TokenizerSource(tokenizer_json=json.dumps(description).encode()))


def test_no_tokenizer_at_all() -> None:
    with pytest.raises(BadModel, match=r"tokenizer\.json is missing"):
        Tokenizer.from_source(TokenizerSource())


MEGABYTE = 1 << 20
BOMBS = {
    "a": "a",
    "caret": "^",
    "spaces": " ",
    "tabs": "\t",
    "newlines": "\n",
    "crlf": "\r\n",
    "newline and space": "\n ",
    "digits": "1",
    "quotes": "'",
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
    "zwj": "👩‍👩‍👧‍👦",
    "combining": "e\u0301",
    "zalgo": "a" + "\u0301\u0302\u0303" * 10,
    "cjk": "的一是不了在人有我他",
    "wide space": "\u3000",
    "angle": "<|",
    "control": "<|im_end|>",
    "nul": "\x00",
    "random": "".join(chr(33 + (i * 7919) % 90) for i in range(997)),
    "random unicode": "".join(chr(0xA1 + (i * 7919) % 40000) for i in range(997)),
}


@pytest.mark.parametrize("pre", ["smollm", "deepseek-llm", "deepseek-v3", "llama"])
def test_bombs_take_time_in_proportion(pre: str) -> None:
    """64 KiB of each, ended by a letter, so that 1 MiB takes 1-4 s: nothing is quadratic.

    A quadratic case would need minutes here (the pattern `\\s+$` did, before its look-behind).
    """
    subject = tokenizer(sentencepiece() if pre == "llama" else byte_level(pre=pre))
    for name, unit in BOMBS.items():
        text = unit * (MEGABYTE // 16 // len(unit.encode())) + "x"
        started = time.perf_counter()
        subject.encode(text, add_special_tokens=False)
        assert time.perf_counter() - started < 2.0, name


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_megabyte_bombs(name: str) -> None:
    subject = tokenizer(byte_level(pre="deepseek-v3"))
    text = BOMBS[name] * (MEGABYTE // len(BOMBS[name].encode()))
    started = time.perf_counter()
    subject.encode(text, add_special_tokens=False)
    assert time.perf_counter() - started < 5.0
