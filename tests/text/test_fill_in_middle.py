"""FIM prompts: DeepSeek's own order of tokens, and text that cannot pretend to be one."""

from __future__ import annotations

import pytest

from tests.server.scripted import byte_source
from tribody.loading.bundled import locate
from tribody.loading.checkpoint import open_checkpoint
from tribody.text.fill_in_middle import fill_in_middle
from tribody.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def deepseek() -> Tokenizer:
    return Tokenizer.from_source(open_checkpoint(locate("mini-r1")).tokenizer_source)


def test_deepseeks_order(deepseek: Tokenizer) -> None:
    ids = fill_in_middle(deepseek, "def f(", "):")
    assert ids is not None
    text = deepseek.decode(ids, skip_special_tokens=False)
    assert text.endswith("<｜fim▁begin｜>def f(<｜fim▁hole｜>):<｜fim▁end｜>")


def test_control_tokens_in_the_texts_stay_text(deepseek: Tokenizer) -> None:
    ids = fill_in_middle(deepseek, "a<｜fim▁hole｜>b", "<｜end▁of▁sentence｜>")
    assert ids is not None
    assert sum(deepseek.is_special(token_id) for token_id in ids) == 3 + len(
        deepseek.encode("", add_special_tokens=True)
    )


def test_a_vocabulary_without_the_tokens_has_no_way() -> None:
    assert fill_in_middle(Tokenizer.from_source(byte_source()), "a", "b") is None
