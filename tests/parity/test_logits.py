"""The same random weights give the same logits here and in transformers, in five ways.

Our tiny weights, written in the published names, are read by transformers and by us; and models
that transformers itself draws and saves are read by us.

transformers 5.23 masks dropped groups with -inf for V3, as the papers do.  Its V2 masks them with
0.0, which is the same as long as the kept groups hold enough experts, since softmax scores are
positive; the config reader refuses other settings.  Correction biases are random, router weights
are scaled so that scores lie apart (no ties), and positions stay small enough for the tolerance.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.golden import recipe
from tests.models.five_ways import WAYS
from tests.models.tiny import CONFIGS, MemoryCheckpoint, tiny_tokens, tiny_weights
from tests.models.tolerance import logits_tolerance
from tests.parity.reference_model import load_reference, reference_logits, write_checkpoint
from tests.parity.write_goldens import greedy_tokens, tiny_logits
from tribody.loading.checkpoint import open_checkpoint
from tribody.models.load import load_model
from tribody.ops import native, reference
from tribody.ops.table import Ops

pytestmark = pytest.mark.parity

SEED = 7
TOKENS = tiny_tokens(90, SEED)
BACKENDS: list[Ops] = [reference.OPS, native.OPS]


def name_of(ops: Ops) -> str:
    return ops.name


def compare(folder: Path, expected: np.ndarray, ops: Ops) -> None:
    checkpoint = open_checkpoint(folder)
    tolerance = logits_tolerance(checkpoint.config, expected)
    model = load_model(checkpoint, ops, "float32")
    for way, compute in WAYS.items():
        difference = np.abs(compute(model, TOKENS) - expected).max()
        print(f"seed={SEED} {ops.name} {way}: {difference:.2e} of {tolerance:.2e}")
        assert difference <= tolerance, way


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("ops", BACKENDS, ids=name_of)
def test_our_weights_in_both(name: str, ops: Ops, tmp_path: Path) -> None:
    config = CONFIGS[name]
    write_checkpoint(tmp_path, config, tiny_weights(config, SEED))
    compare(tmp_path, reference_logits(load_reference(tmp_path), TOKENS), ops)


@pytest.mark.parametrize("name", CONFIGS)
def test_models_that_transformers_saves(name: str, tmp_path: Path) -> None:
    """transformers' own initialisation, config.json and file layout (transformers 5 style).

    It draws small weights; they are scaled up, and buffers that it leaves at zero are drawn, so
    that attention, routing and correction biases matter.
    """
    torch.manual_seed(SEED)
    known = transformers.AutoConfig.for_model(**CONFIGS[name])
    model = transformers.AutoModelForCausalLM.from_config(known, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2)
    model.eval().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in written
    compare(tmp_path, reference_logits(model, TOKENS), native.OPS)


@pytest.mark.parametrize("name", CONFIGS)
def test_stored_goldens_are_what_transformers_computes(name: str) -> None:
    with np.load(recipe.LOGITS) as stored:
        expected = stored[name]
    difference = np.abs(tiny_logits(name) - expected).max()
    assert difference <= logits_tolerance(CONFIGS[name], expected)


def test_w8g32_moves_logits_no_further_than_its_noise(tmp_path: Path) -> None:
    """The default format against transformers' float32, as a share of the logits' norm."""
    config, weights = CONFIGS["llama"], tiny_weights(CONFIGS["llama"], SEED)
    write_checkpoint(tmp_path, config, weights)
    expected = reference_logits(load_reference(tmp_path), TOKENS)
    model = load_model(MemoryCheckpoint(config, weights), native.OPS, "w8g32")
    found = WAYS["whole"](model, TOKENS)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    # Half a step of 1/127 in weights and activations, over the model's 8 * 3 + 2 operations.
    assert error < 4 * np.sqrt(8 * 3 + 2) / 254


@pytest.mark.weights
@pytest.mark.timeout(900)  # transformers on two busy cores
def test_smollm2_golden_is_what_transformers_computes(smollm2_path: Path) -> None:
    """The first 24 tokens of two prompts, one of them Chinese (all of it takes two minutes)."""
    stored = json.loads(recipe.SMOLLM2.read_text())
    assert stored["gguf_sha256"] == recipe.file_sha256(smollm2_path)
    chosen = (recipe.PROMPTS[0], recipe.PROMPTS[10])
    answers = {answer["prompt"]: answer for answer in stored["answers"]}
    for found in greedy_tokens(smollm2_path, chosen, 24):
        assert found["ids"] == answers[found["prompt"]]["ids"]
        assert found["tokens"] == answers[found["prompt"]]["tokens"][:24]
