"""Quantization-aware training: a trained mini-r1 learns to live with a run-time format.

    python -m recipes.mini_r1.qat --run runs/mini-r1 --format w4m32 --out runs/mini-r1-w4m32

Goes on from a finished run at a low, falling rate, computing with the rounded weights while the
float32 ones are trained (`fake_quantize`).  Writes a float32 checkpoint: served in this format, its
weights are bit for bit those that were trained with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn.utils import parametrize

from recipes.mini_r1 import export
from recipes.mini_r1.fake_quantize import train_through
from recipes.mini_r1.model import MiniR1
from recipes.mini_r1.shape import Shape
from recipes.mini_r1.train import Plan, Run
from tribody.core.config import WeightFormat
from tribody.text.deepseek_templates import R1

LONGEST = 1100  # tokens of a look-up, as at the end of the training itself


def plan(tokens: int, seed: int) -> Plan:
    """A tenth of the training's rates, falling from the start.

    Float32 throughout: bfloat16 would round the formats' values once more.
    """
    return Plan(
        seed=seed,
        tokens=tokens,
        curriculum=((0.0, LONGEST, 0.25),),
        learning_rate=4e-4,
        embedding_rate=2e-4,
        router_rate=5e-5,
        warm_up=0.05,
        decay_from=0.05,
        mtp_weights=(0.1, 0.1),
        compute="float32",
    )


def formats(model: MiniR1, weight_format: WeightFormat) -> dict[str, WeightFormat]:
    """Every matrix that the engine packs in the format asked for: all but the routers."""
    return {
        name: weight_format
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and not name.endswith(".gate.weight")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run of train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("w8g32", "w6g32", "w5m32", "w4m32"), default="w4m32")
    parser.add_argument("--tokens", type=int, default=1_500_000)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "state.pt", weights_only=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = arguments.out / "tokenizer.json"
    tokenizer.write_bytes((arguments.run / "tokenizer.json").read_bytes())

    def prepare(model: MiniR1) -> None:
        model.load_state_dict(state["model"])
        train_through(model, formats(model, arguments.format))

    run = Run(arguments.out, plan(arguments.tokens, arguments.seed), Shape(), prepare)
    run.train()
    for module in list(run.model.modules()):
        for leaf in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    export.write_float32(run.model, run.tokenizer, arguments.out / "checkpoint", R1)


if __name__ == "__main__":
    main()
