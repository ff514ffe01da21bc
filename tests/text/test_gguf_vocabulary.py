"""Vocabularies from GGUF metadata: patterns, merges, added tokens and refusals."""

from __future__ import annotations

import pytest

from tests.text.vocabularies import byte_level, sentencepiece, tokenizer
from tribody.core.errors import BadModel
from tribody.text.gguf_vocabulary import byte_level_alphabet


def pieces(pre: str, text: str) -> list[str]:
    """The pre-tokenizer's cuts: with no merges every byte is a token, so read the offsets."""
    inner = tokenizer(byte_level(pre=pre))._inner
    return [text[start:end] for _, (start, end) in inner.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "a 123  4", ["a", " 123", " ", " 4"]),
        ("default", "a 123  4", ["a", " 123", " ", " 4"]),
        ("", "don't", ["don", "'t"]),
        ("smollm", "a 123  4", ["a", " ", "1", "2", "3", "  ", "4"]),
        ("llama-bpe", "a 12345 DON'T\n\n b", ["a", " ", "123", "45", " DON", "'T", "\n\n", " b"]),
        ("llama3", "!x", ["!x"]),
        ("qwen2", "a 12 I'M", ["a", " ", "1", "2", " I", "'M"]),
        ("deepseek-r1-qwen", "a 12", ["a", " ", "1", "2"]),
        ("deepseek-llm", "ab\n 12, 中文  ", ["ab", "\n", " ", "1", "2", ",", " ", "中文", "  "]),
        # The punctuation class `:-~` holds the letters, so they part from é; Armenian has only
        # its capitals.  The model was trained with both.
        ("deepseek-llm", "née Էէ", ["n", "é", "e", " Է", "է"]),
        ("deepseek-coder", "x = y;\n中a", ["x", " =", " y", ";", "\n", "中", "a"]),
        ("deepseek-v3", "a12345中文かな b!x\n", ["a", "123", "45", "中文かな", " b", "!x", "\n"]),
    ],
)
def test_pre_tokenizer_cuts(pre: str, text: str, expected: list[str]) -> None:
    assert pieces(pre, text) == expected


def test_qwen2_normalizes_and_its_distillation_does_not() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    for pre, same in (("qwen2", True), ("deepseek-r1-qwen", False)):
        subject = tokenizer(byte_level(pre=pre))
        ids = [subject.encode(t, add_special_tokens=False) for t in (composed, decomposed)]
        assert (ids[0] == ids[1]) is same


def test_llama3_takes_whole_pieces_before_merging() -> None:
    """Its tokenizer.json says ignore_merges: `STOP` is a token although no merge makes it."""
    whole = tokenizer(byte_level(pre="llama-bpe")).encode("STOP", add_special_tokens=False)
    merged = tokenizer(byte_level(pre="gpt-2")).encode("STOP", add_special_tokens=False)
    assert (len(whole), len(merged)) == (1, 4)


def test_alphabet_spells_every_byte_once() -> None:
    alphabet = byte_level_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == ord(" ")
    assert alphabet["Ċ"] == ord("\n")


def test_sentencepiece_merges_by_score() -> None:
    subject = tokenizer(sentencepiece())
    texts = [
        subject._inner.id_to_token(i) for i in subject.encode("ab abc", add_special_tokens=False)
    ]
    assert texts == ["▁ab", "▁ab", "c"]  # ▁ab scores above abc, so it is joined first


def test_sentencepiece_falls_back_to_bytes() -> None:
    subject = tokenizer(sentencepiece())
    ids = subject.encode("a你好", add_special_tokens=True)
    assert [subject.token_bytes(i) for i in ids] == [
        b"<s>",
        b" a",
        "你".encode(),
        *(bytes([byte]) for byte in "好".encode()),
    ]
    assert subject.decode(ids, skip_special_tokens=True) == "a你好"


def test_no_space_prefix_when_the_file_says_so() -> None:
    subject = tokenizer(sentencepiece(add_space_prefix=False))
    ids = subject.encode("ab", add_special_tokens=False)
    assert [subject.token_bytes(token_id) for token_id in ids] == [b"ab"]
    assert subject.decode(ids, skip_special_tokens=False) == "ab"


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (byte_level(pre="made-up"), "tokenizer.ggml.pre is 'made-up'; supported are default"),
        (byte_level(model="bert"), "tokenizer.ggml.model is 'bert'"),
        (byte_level(merges=["t h", "zz q"]), r"merges\[1\] = 'zz q'"),
        (byte_level(merges=["th"]), r"merges\[0\] = 'th'"),
        (byte_level(token_types=[1]), "token_type has 1 entries"),
        (sentencepiece(scores=[0.0]), "scores has 1 entries"),
        (byte_level(tokens=[], token_types=[], merges=[]), "no tokens"),
    ],
)
def test_refuses_damaged_vocabularies(vocabulary: object, message: str) -> None:
    with pytest.raises(BadModel, match=message):
        tokenizer(vocabulary)  # type: ignore[arg-type]
