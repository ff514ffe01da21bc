"""Compute the goldens with transformers and store them: `python -m tests.parity.write_goldens X`.

X is the GGUF file of SmolLM2-135M-Instruct; without it only the tiny models are computed.

Goldens change only when their recipe does; review the diff of the .json files.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.golden import recipe
from tests.models.tiny import CONFIGS, tiny_tokens, tiny_weights
from tests.parity.reference_model import load_reference, reference_logits, write_checkpoint

VERSIONS = {
    "numpy": np.__version__,
    "python": platform.python_version(),
    "torch": torch.__version__,
    "transformers": transformers.__version__,
}


def tiny_logits(name: str) -> NDArray[np.float32]:
    """transformers' logits of one tiny model at the stored positions."""
    config = CONFIGS[name]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), config, tiny_weights(config, recipe.WEIGHT_SEED))
        model = load_reference(Path(folder))
    logits = reference_logits(model, tiny_tokens(recipe.NUM_TOKENS, recipe.TOKEN_SEED))
    return np.ascontiguousarray(logits[list(recipe.POSITIONS)])


def write_logits() -> None:
    arrays = {name: tiny_logits(name) for name in CONFIGS}
    np.savez_compressed(recipe.LOGITS, allow_pickle=False, **arrays)
    content = {
        "recipe": {
            "weight_seed": recipe.WEIGHT_SEED,
            "token_seed": recipe.TOKEN_SEED,
            "num_tokens": recipe.NUM_TOKENS,
            "positions": recipe.POSITIONS,
            "dtype": "float32",
            "attention": "eager",
        },
        "versions": VERSIONS,
        "sha256": recipe.file_sha256(recipe.LOGITS),
        "weights_sha256": {
            name: recipe.weights_sha256(tiny_weights(config, recipe.WEIGHT_SEED))
            for name, config in CONFIGS.items()
        },
    }
    recipe.LOGITS_RECIPE.write_text(json.dumps(content, indent=1) + "\n")


def greedy_tokens(gguf: Path, prompts: tuple[str, ...], count: int) -> list[dict[str, object]]:
    """Prompt ids, greedy tokens and the smallest lead of a best logit over the second."""
    from_file = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**from_file)
    model = transformers.AutoModelForCausalLM.from_pretrained(**from_file, dtype=torch.float32)
    model.eval()
    results: list[dict[str, object]] = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens, lead, known = [], float("inf"), None
        step = torch.tensor([ids])
        with torch.no_grad():
            for _ in range(count):
                output = model(step, past_key_values=known, use_cache=True)
                known = output.past_key_values
                best = output.logits[0, -1].topk(2)
                lead = min(lead, float(best.values[0] - best.values[1]))
                tokens.append(int(best.indices[0]))
                step = torch.tensor([tokens[-1:]])
        results.append({"prompt": prompt, "ids": ids, "tokens": tokens, "smallest_lead": lead})
    return results


def write_smollm2(gguf: Path) -> None:
    content = {
        "recipe": {
            "model": gguf.name,
            "num_tokens": recipe.NUM_GREEDY_TOKENS,
            "dtype": "float32",
            "end tokens": "ignored",
            "special tokens": "parsed in the prompt, none added",
        },
        "versions": VERSIONS,
        "gguf_sha256": recipe.file_sha256(gguf),
        "answers": greedy_tokens(gguf, recipe.PROMPTS, recipe.NUM_GREEDY_TOKENS),
    }
    recipe.SMOLLM2.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_logits()
    for path in sys.argv[1:]:
        write_smollm2(Path(path))
