"""From a trained state to what is shipped: checkpoints, held-out items, figures, model card.

    python -m recipes.mini_r1.evaluate --run FOLDER --out src/tribody/bundled

Scores come from tribody's own engine (`tribody bench quality`); the draft module's acceptance and
the experts' loads, which the engine does not report, from the training forward in float32 on the
exported BF16 weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipes.mini_r1 import card, export, shipped
from recipes.mini_r1.generate import Item, solved
from recipes.mini_r1.model import MiniR1
from recipes.mini_r1.shape import Shape
from recipes.mini_r1.tokenizer import PAD_ID
from recipes.mini_r1.train import IGNORED, Batch, batches, encode
from tribody.loading.download import sha256_of
from tribody.text.deepseek_templates import R1

BATCH_TOKENS = 8192  # of the held-out items, at a time


def item_batches(tokenizer: Tokenizer, chosen: list[Item]) -> list[Batch]:
    """Prompt, reference thinking and answer of each item, padded."""
    examples = [solved(item) for item in chosen]
    return batches(encode(tokenizer, examples), BATCH_TOKENS, "held_out")


@torch.no_grad()
def acceptance(model: MiniR1, made: list[Batch]) -> dict[str, float]:
    """How often the MTP module's draft is what the trunk says, over all thinking and answers.

    The trunk has written token t+1; the module drafts token t+2 from it and h_t; the draft is
    accepted if it is the trunk's most likely token after t+1.  One draft, greedy, teacher-forced.
    """
    accepted = drafted = 0
    for batch in made:
        hidden = model.trunk(batch.ids)
        wanted = model.logits(hidden).argmax(-1)[:, 1:-1]
        guess = model.draft_logits(model.draft(hidden, batch.ids)).argmax(-1)[:, :-1]
        # t+1 was generated, and there is a t+2 to draft.
        at = (batch.labels[:, 1:-1] != IGNORED) & (batch.labels[:, 2:] != IGNORED)
        accepted += int((guess == wanted)[at].sum())
        drafted += int(at.sum())
    return {"drafted": drafted, "accepted": accepted, "rate": accepted / drafted}


@torch.no_grad()
def expert_loads(model: MiniR1, made: list[Batch]) -> dict[str, Any]:
    """Tokens per expert as a share of an even split, by layer, over all tokens of the items."""
    counts: dict[str, Tensor] = {}

    def count(name: str) -> Any:
        def hook(_module: Any, _given: Any, result: tuple[Tensor, Tensor]) -> None:
            chosen = result[0][mask.flatten()].flatten()
            counts[name] = counts.get(name, 0) + chosen.bincount(
                minlength=model.shape.n_routed_experts
            )

        return hook

    hooks = [
        layer.mlp.gate.register_forward_hook(count(f"layers.{index}"))
        for index, layer in enumerate(model.layers)
        if index >= model.shape.first_k_dense_replace
    ]
    for batch in made:
        # A pad token stands only after the end of a row.
        mask = batch.ids != PAD_ID
        model.trunk(batch.ids)
    for hook in hooks:
        hook.remove()
    shares = {name: (c / c.float().mean()).tolist() for name, c in counts.items()}
    flat = [share for layer in shares.values() for share in layer]
    return {"least": min(flat), "most": max(flat), "by_layer": shares}


def exported(state: dict[str, Any]) -> MiniR1:
    """The model with its weights rounded to BF16, computing in float32."""
    model = MiniR1(Shape())
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.eval()
    return model


def engine_report(folder: Path, held_out_file: Path, formats: list[str]) -> dict[str, Any]:
    """`tribody bench quality` on the exported checkpoint, float32 first."""
    tribody = str(Path(sys.executable).with_name("tribody"))
    command = [tribody, "bench", "quality", str(folder), "--json"]
    command += ["--held-out", str(held_out_file), "--tokens", "0", "--max-tokens", "300"]
    for name in formats:
        command += ["--format", name]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a folder that train wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the models go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(arguments.run / "state.pt", weights_only=True)
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = exported(state)
    export.write(model, tokenizer, arguments.out, R1)
    held_out_file = arguments.out / "held_out.jsonl.gz"
    drawn = list(shipped.items())
    shipped.write(held_out_file, drawn)
    made = item_batches(tokenizer, [item for item in drawn if item.split == "held_out"])
    figures = {
        "acceptance": acceptance(model, made),
        "expert_loads": expert_loads(model, made),
        "engine": engine_report(arguments.out / "mini-r1", held_out_file, ["w8g32"]),
        "engine_fp8": engine_report(arguments.out / "mini-r1-fp8", held_out_file, ["w8g32"]),
        "training": card.training(state, arguments.run),
    }
    (arguments.run / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    card.write(arguments.out, figures, sum(p.numel() for p in model.parameters()))
    sums = "".join(
        f"{sha256_of(path)}  {path.relative_to(arguments.out)}\n"
        for path in sorted(arguments.out.glob("**/*"))
        if path.is_file() and path.name != "SHA256SUMS" and path.suffix != ".md"
    )
    (arguments.out / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main()
