"""transformers as the oracle: the same tiny weights in its own model and in its own files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

F32 = NDArray[np.float32]


def write_checkpoint(folder: Path, config: dict[str, object], tensors: dict[str, F32]) -> None:
    """A checkpoint folder in the published names, as a model's author writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_reference(folder: Path) -> torch.nn.Module:
    """transformers' model of that folder in float32; every tensor must have found its place,
    but for those of the MTP layer, which transformers does not have."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    mtp = f"model.layers.{model.config.num_hidden_layers}."
    unexpected = [key for key in report["unexpected_keys"] if not key.startswith(mtp)]
    assert not unexpected, unexpected
    for problem in ("missing_keys", "mismatched_keys"):
        assert not report[problem], f"{problem}: {report[problem]}"
    return model.eval()


def reference_logits(model: torch.nn.Module, tokens: list[int]) -> F32:
    with torch.no_grad():
        output = model(torch.tensor([tokens]), use_cache=False)
    return output.logits[0].numpy().astype(np.float32)
