"""The logits that transformers computed for the tiny models, held without torch.

The native operators are run in all five ways, which must also agree with each other: bit for bit
for grouped-query attention, whose form never changes, within the tolerance for latent attention,
whose token-by-token way is the absorbed form.
"""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import recipe
from tests.models.five_ways import WAYS, whole
from tests.models.tiny import CONFIGS, tiny_checkpoint, tiny_tokens
from tests.models.tolerance import logits_tolerance
from tribody.models.config import GroupedQuery
from tribody.models.load import load_model
from tribody.ops import native, reference

TOKENS = tiny_tokens(recipe.NUM_TOKENS, recipe.TOKEN_SEED)
STORED = list(recipe.POSITIONS)


def test_the_files_are_the_ones_that_the_recipe_names() -> None:
    written = json.loads(recipe.LOGITS_RECIPE.read_text())
    assert written["sha256"] == recipe.file_sha256(recipe.LOGITS)
    assert written["recipe"]["positions"] == STORED
    for name in CONFIGS:
        weights = tiny_checkpoint(name, recipe.WEIGHT_SEED).tensors
        assert written["weights_sha256"][name] == recipe.weights_sha256(weights), name


def golden(name: str) -> NDArray[np.float32]:
    with np.load(recipe.LOGITS) as stored:
        return np.asarray(stored[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_reference_operators_give_the_golden_logits(name: str) -> None:
    checkpoint = tiny_checkpoint(name, recipe.WEIGHT_SEED)
    model = load_model(checkpoint, reference.OPS, "float32")
    expected = golden(name)
    difference = np.abs(whole(model, TOKENS)[STORED] - expected).max()
    assert difference <= logits_tolerance(checkpoint.config, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_native_operators_give_the_golden_logits_in_five_ways(name: str) -> None:
    checkpoint = tiny_checkpoint(name, recipe.WEIGHT_SEED)
    model = load_model(checkpoint, native.OPS, "float32")
    expected = golden(name)
    tolerance = logits_tolerance(checkpoint.config, expected)
    first = whole(model, TOKENS)
    for way, compute in WAYS.items():
        found = compute(model, TOKENS)
        difference = np.abs(found[STORED] - expected).max()
        assert difference <= tolerance, f"{way}: {difference} > {tolerance}"
        if isinstance(model.config.attention, GroupedQuery) or way != "token_by_token":
            np.testing.assert_array_equal(found, first, err_msg=way)
        else:
            assert np.abs(found - first).max() <= tolerance


@pytest.mark.parametrize("weight_format", ["w8g32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "v3-q-lora", "v2-grouped"])
def test_native_is_batch_invariant_in_every_format(name: str, weight_format: str) -> None:
    """The same bits in a batch, in chunks and after a prefix hit; absorbed with absorbed."""
    checkpoint = tiny_checkpoint(name, recipe.WEIGHT_SEED)
    model = load_model(checkpoint, native.OPS, weight_format)  # type: ignore[arg-type]
    first = whole(model, TOKENS)
    for way in ("chunked", "after_prefix_hit", "among_eight_others"):
        np.testing.assert_array_equal(WAYS[way](model, TOKENS), first, err_msg=way)
