"""From a trained state to what is shipped: checkpoints, held-out items, figures, model card.

    python -m recipes.mini_r1.evaluate --run FOLDER --out src/tribody/bundled [--scores-of FOLDER]

Scores come from tribody's own engine (`tribody bench quality`); the rates of the draft module and
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
from recipes.mini_r1.drafts import rates
from recipes.mini_r1.generate import Item, solved
from recipes.mini_r1.model import MiniR1
from recipes.mini_r1.shape import Shape
from recipes.mini_r1.tokenizer import PAD_ID
from recipes.mini_r1.train import Batch, batches, encode
from tribody.loading.download import sha256_of
from tribody.text.deepseek_templates import R1

BATCH_TOKENS = 8192  # of the held-out items, at a time
PASSES = 5  # of the draft module
DRAFT_ITEMS = 5  # one held-out item of so many is drafted for


def item_batches(tokenizer: Tokenizer, chosen: list[Item]) -> list[Batch]:
    """Prompt, reference thinking and answer of each item, padded."""
    examples = [solved(item) for item in chosen]
    return batches(encode(tokenizer, examples), BATCH_TOKENS, "held_out")


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


def scores_of(run: Path, model: MiniR1) -> dict[str, Any]:
    """What an earlier evaluation measured of the same trunk, with another draft module."""
    other = exported(torch.load(run / "state.pt", weights_only=True)).state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith("mtp.") and not torch.equal(value, other[name]):
            raise SystemExit(f"{run}: {name} is not the same; evaluate without --scores-of")
    figures: dict[str, Any] = json.loads((run / "figures.json").read_text())
    return {name: figures[name] for name in ("engine", "engine_fp8", "expert_loads")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a folder that train wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the models go")
    parser.add_argument("--scores-of", type=Path, help="an evaluated run with the same trunk")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(arguments.run / "state.pt", weights_only=True)
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = exported(state)
    export.write(model, tokenizer, arguments.out, R1)
    held_out_file = arguments.out / "held_out.jsonl.gz"
    drawn = list(shipped.items())
    shipped.write(held_out_file, drawn)
    chosen = [item for item in drawn if item.split == "held_out"]
    if arguments.scores_of is not None:
        scores = scores_of(arguments.scores_of, model)
    else:
        scores = {
            "expert_loads": expert_loads(model, item_batches(tokenizer, chosen)),
            "engine": engine_report(arguments.out / "mini-r1", held_out_file, ["w8g32"]),
            "engine_fp8": engine_report(arguments.out / "mini-r1-fp8", held_out_file, ["w8g32"]),
        }
    figures = scores | {
        "drafts": rates(model, item_batches(tokenizer, chosen[::DRAFT_ITEMS]), PASSES),
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
