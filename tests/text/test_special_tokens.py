"""Which ids end generation."""

from __future__ import annotations

import pytest

from tests.text.vocabularies import byte_level, tokenizer
from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.gguf_vocabulary import CONTROL
from tribody.text.special_tokens import eos_token_ids, gguf_end_ids, special_token_strings

OWN = frozenset({7})


@pytest.mark.parametrize(
    ("config", "generation_config", "expected"),
    [
        ({}, {}, {7}),
        ({"eos_token_id": 1}, {}, {1, 7}),
        ({"eos_token_id": 1}, {"eos_token_id": 2}, {2, 7}),
        ({"eos_token_id": 1}, {"eos_token_id": [2, 3]}, {2, 3, 7}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": None}, {1, 2, 7}),
    ],
)
def test_eos_token_ids(
    config: dict[str, object], generation_config: dict[str, object], expected: set[int]
) -> None:
    assert eos_token_ids(OWN, config, generation_config) == expected


@pytest.mark.parametrize("value", ["1", 1.5, [1, "2"], True, {"a": 1}])
def test_refuses_other_types(value: object) -> None:
    with pytest.raises(BadModel, match=r"generation_config\.json: eos_token_id is"):
        eos_token_ids(OWN, {}, {"eos_token_id": value})


def test_gguf_ends_are_declared_and_well_known_ones() -> None:
    vocabulary = byte_level()
    end, eos = vocabulary.tokens.index("<|im_end|>"), vocabulary.eos_token_id
    assert gguf_end_ids(vocabulary) == {end, eos}
    assert gguf_end_ids(byte_level(eot_token_id=3, eos_token_id=None)) == {end, 3}
    assert gguf_end_ids(byte_level(eot_token_id=10**9, eos_token_id=-1)) == {end}
    assert tokenizer(vocabulary).eos_token_ids == {end, eos}


def test_ordinary_tokens_spelled_like_an_end_are_none() -> None:
    vocabulary = byte_level()
    types = [kind if kind != CONTROL else 1 for kind in vocabulary.token_types]
    assert gguf_end_ids(byte_level(token_types=types, eos_token_id=None)) == frozenset()


def test_special_token_strings() -> None:
    config: dict[str, object] = {
        "bos_token": {"__type": "AddedToken", "content": "<s>"},
        "eos_token": "</s>",
        "unk_token": None,
        "pad_token": 3,
    }
    assert special_token_strings(TokenizerSource(tokenizer_config=config)) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    source = TokenizerSource(gguf_vocabulary=byte_level())
    assert special_token_strings(source) == {"bos_token": "<|bos|>", "eos_token": "<｜eos▁token｜>"}
