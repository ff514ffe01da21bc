"""What the clients send has the stated lengths."""

import random
from contextlib import closing

import pytest

from conversations import OUTPUT_TOKENS, question
from tribody.loading.checkpoint import open_checkpoint
from tribody.text.chat_template import chat_template_for
from tribody.text.tokenizer import Tokenizer


def test_a_question_is_a_function_of_the_seed() -> None:
    one, again, other = (question("m", random.Random(n), OUTPUT_TOKENS) for n in (1, 1, 2))
    assert one == again != other


@pytest.mark.weights
def test_prompts_have_230_to_420_tokens(smollm2_path) -> None:
    with closing(open_checkpoint(smollm2_path)) as checkpoint:
        source = checkpoint.tokenizer_source
    tokenizer, template = Tokenizer.from_source(source), chat_template_for(source, "llama")
    assert template is not None
    draw = random.Random(1)
    lengths = []
    for _ in range(200):
        messages = question("m", draw, OUTPUT_TOKENS)["messages"]
        assert isinstance(messages, list)
        text = template.prompt(messages)
        lengths.append(len(tokenizer.encode(text, add_special_tokens=False)))
    assert 230 <= min(lengths) < 250
    assert 400 < max(lengths) <= 420
