"""The real SmolLM2 vocabulary, rebuilt from its GGUF, against llama.cpp's and transformers' ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tribody.loading.checkpoint import open_checkpoint
from tribody.text.chat_template import chat_template_for
from tribody.text.detokenizer import TextStream
from tribody.text.tokenizer import Tokenizer

pytestmark = pytest.mark.weights

GOLDEN = json.loads((Path(__file__).parent / "data" / "smollm2_tokens.json").read_text())


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    checkpoint = open_checkpoint(smollm2_path)
    try:
        return Tokenizer.from_source(checkpoint.tokenizer_source)
    finally:
        checkpoint.close()


def test_the_file_is_the_golden_one(smollm2_path: Path) -> None:
    assert hashlib.sha256(smollm2_path.read_bytes()).hexdigest() == GOLDEN["gguf_sha256"]


def test_ids(tokenizer: Tokenizer) -> None:
    """All ids are llama.cpp's; transformers agrees on all but the listed texts."""
    assert len(GOLDEN["texts"]) - len(GOLDEN["transformers_differs"]) >= 200
    for index, (text, ids) in enumerate(zip(GOLDEN["texts"], GOLDEN["ids"], strict=True)):
        assert tokenizer.encode(text, add_special_tokens=True) == ids, (index, text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, (index, text)
        stream = TextStream(tokenizer, skip_special_tokens=False)
        pieces = [stream.push([token_id]) for token_id in ids]
        assert "".join(pieces) + stream.finish() == text, (index, text)


def test_vocabulary(tokenizer: Tokenizer) -> None:
    tokenizer.check_vocabulary(49152)
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.token_id("<|im_end|>") == 2
    assert tokenizer.is_special(2)


def test_chat_template(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    template = chat_template_for(checkpoint.tokenizer_source, "llama")
    checkpoint.close()
    assert template is not None
    prompt = template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
