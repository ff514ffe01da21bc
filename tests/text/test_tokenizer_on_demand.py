"""A tokenizer on demand knows its end tokens before it exists, and then is the same tokenizer."""

from __future__ import annotations

import pytest

from tests.engine.model_folder import EOS, byte_tokenizer
from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import GgufVocabulary, TokenizerSource
from tribody.text.tokenizer import Tokenizer
from tribody.text.tokenizer_on_demand import TokenizerOnDemand

FOLDER = TokenizerSource(
    tokenizer_json=byte_tokenizer().to_str().encode(),
    tokenizer_config={"eos_token": "</s>", "bos_token": {"content": "<s>"}},
)
GGUF = TokenizerSource(
    gguf_vocabulary=GgufVocabulary(
        model="gpt2",
        pre="default",
        tokens=["a", "b", "ab", "<|im_end|>", "<s>"],
        token_types=[1, 1, 1, 3, 3],
        merges=["a b"],
        scores=[],
        bos_token_id=4,
        eos_token_id=3,
        unknown_token_id=None,
        padding_token_id=None,
        add_bos_token=True,
        add_eos_token=None,
        add_space_prefix=None,
    )
)


def refuse(source: TokenizerSource) -> Tokenizer:
    raise AssertionError("it was built before anybody asked for it")


@pytest.mark.parametrize(("source", "end"), [(FOLDER, EOS), (GGUF, 3)])
def test_end_tokens_are_known_without_building(
    monkeypatch: pytest.MonkeyPatch, source: TokenizerSource, end: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "from_source", refuse)
        waiting = TokenizerOnDemand(source)
        assert waiting.eos_token_ids == {end}
    built = Tokenizer.from_source(source)
    assert waiting.get() is waiting.get()
    assert waiting.eos_token_ids == built.eos_token_ids
    assert waiting.get().encode("ab", add_special_tokens=True) == built.encode(
        "ab", add_special_tokens=True
    )


def test_an_end_token_of_the_vocabulary_itself_is_found() -> None:
    plain = TokenizerSource(
        tokenizer_json=FOLDER.tokenizer_json, tokenizer_config={"eos_token": "a"}
    )
    assert TokenizerOnDemand(plain).eos_token_ids == Tokenizer.from_source(plain).eos_token_ids
    absent = TokenizerSource(
        tokenizer_json=FOLDER.tokenizer_json, tokenizer_config={"eos_token": "<none>"}
    )
    assert TokenizerOnDemand(absent).eos_token_ids == frozenset()


@pytest.mark.parametrize("content", [None, b"{", b'{"added_tokens": 3}'])
def test_what_cannot_be_built_says_so_when_it_is_needed(content: bytes | None) -> None:
    waiting = TokenizerOnDemand(TokenizerSource(tokenizer_json=content))
    with pytest.raises(BadModel):
        waiting.get()
    with pytest.raises(BadModel):
        TokenizerOnDemand(
            TokenizerSource(tokenizer_json=content, tokenizer_config={"eos_token": "</s>"})
        )
