"""Whole, chunks, token by token, prefix hit, in a batch: the reference operators agree."""

import numpy as np
import pytest

from tests.models.five_ways import WAYS, whole
from tests.models.tiny import tiny_checkpoint, tiny_tokens
from tests.models.tolerance import logits_tolerance
from tribody.models.load import load_model
from tribody.ops import reference


@pytest.mark.parametrize("name", ["qwen3", "v3-q-lora", "v2-grouped"])
def test_five_ways_agree(name: str) -> None:
    checkpoint = tiny_checkpoint(name)
    model = load_model(checkpoint, reference.OPS, "float32")
    tokens = tiny_tokens(90)
    expected = whole(model, tokens)
    tolerance = logits_tolerance(checkpoint.config, expected)
    assert np.isfinite(expected).all()
    for way, compute in WAYS.items():
        difference = np.abs(compute(model, tokens) - expected).max()
        assert difference <= tolerance, f"{way}: {difference} > {tolerance}"
