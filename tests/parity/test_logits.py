"""The same random weights give the same logits here and in transformers, in five ways.

Two paths for the files.  Our tiny weights, written in the published names, are read by transformers
and by us; and models that transformers itself initialises and saves are read by us.
transformers 5.23 masks dropped groups with -inf for V3, as the papers do; its V2 masks them with
0.0, which is the same as long as the kept groups hold enough experts (they do here, and the config
reader demands it).
"""

from pathlib import Path

import numpy as np
import pytest

from tests.models.five_ways import WAYS
from tests.models.tiny import CONFIGS, MemoryCheckpoint, tiny_tokens, tiny_weights
from tests.models.tolerance import logits_tolerance
from tests.parity.reference_model import load_reference, reference_logits, write_checkpoint
from tribody.models.load import load_model
from tribody.ops import reference
from tribody.ops.table import Ops

pytestmark = pytest.mark.parity
SEED = 7


def backends() -> list[Ops]:
    found: list[Ops] = [reference.OPS]
    try:
        from tribody.ops import native
    except ImportError:
        return found
    return [*found, native.OPS]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("ops", backends(), ids=lambda ops: ops.name)
def test_logits_equal_transformers(name: str, ops: Ops, tmp_path: Path) -> None:
    config, tokens = CONFIGS[name], tiny_tokens(90, SEED)
    weights = tiny_weights(config, SEED)
    write_checkpoint(tmp_path, config, weights)
    expected = reference_logits(load_reference(tmp_path), tokens)
    tolerance = logits_tolerance(config, expected)
    model = load_model(MemoryCheckpoint(config, weights), ops, "float32")
    for way, compute in WAYS.items():
        difference = np.abs(compute(model, tokens) - expected).max()
        print(f"seed={SEED} {name} {way}: {difference:.2e}, allowed {tolerance:.2e}")
        assert difference <= tolerance, way
