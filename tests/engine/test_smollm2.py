"""SmolLM2-135M-Instruct in float32: the greedy tokens of transformers, held by a golden."""

import json
from pathlib import Path

import pytest

from tests.golden import recipe
from tribody import LLM

pytestmark = pytest.mark.weights


def test_greedy_tokens_equal_transformers(smollm2_path: Path) -> None:
    """64 tokens on each of 20 prompts, all in one batch of the engine."""
    golden = json.loads(recipe.SMOLLM2.read_text())
    assert golden["gguf_sha256"] == recipe.file_sha256(smollm2_path)
    answers = golden["answers"]
    assert [answer["prompt"] for answer in answers] == list(recipe.PROMPTS)
    llm = LLM(smollm2_path, dtype="float32", kv_budget_bytes=1 << 29)
    for answer in answers:
        ids = llm.tokenizer.encode(answer["prompt"], add_special_tokens=False)
        assert ids == answer["ids"], answer["prompt"]
    found = llm.generate(
        [list(answer["ids"]) for answer in answers],
        max_tokens=recipe.NUM_GREEDY_TOKENS,
        temperature=0.0,
        ignore_eos=True,
    )
    for answer, generation in zip(answers, found, strict=True):
        assert generation.choices[0].token_ids == answer["tokens"], answer["prompt"]
