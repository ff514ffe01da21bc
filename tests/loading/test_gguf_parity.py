"""The same GGUF file through our loader and through transformers: every tensor must be equal.

transformers undoes llama's permutation and decodes with the gguf package; both are independent of
ours.  Runs in the parity environment only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tribody.loading.checkpoint import open_checkpoint

pytestmark = [pytest.mark.parity, pytest.mark.weights]


def test_smollm2_equals_transformers(smollm2_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(smollm2_path.parent), gguf_file=smollm2_path.name, dtype=torch.float32
    )
    theirs = {name: values.numpy() for name, values in model.state_dict().items()}
    ours = open_checkpoint(smollm2_path)
    assert set(ours.names()) == theirs.keys() - {"lm_head.weight"}  # tied, listed twice by torch
    for name in ours.names():
        np.testing.assert_array_equal(ours.read(name), theirs[name], err_msg=name)
    config = ours.config
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
                "tie_word_embeddings"):  # fmt: skip
        assert config[key] == getattr(model.config, key), key
    assert config["rope_theta"] == model.config.rope_parameters["rope_theta"]
    assert np.float32(model.config.rms_norm_eps) == np.float32(str(config["rms_norm_eps"]))
    ours.close()
