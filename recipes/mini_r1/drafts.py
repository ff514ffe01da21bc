"""The MTP module learns to go on from its own guesses.

    python -m recipes.mini_r1.drafts --run runs/mini-r1 --out runs/mini-r1-drafts

In training the module guesses one token and sees the trunk's hidden states alone.  To guess more it
is fed its own output (`models/deepseek_mtp.py`), which it has never seen.  Here it is trained as it
is used: pass after pass over each place, on what the pass before it put out, to guess what the
trunk will say.  The trunk stays as it is, bit for bit.

Sources: S. Gloeckle et al., FastMTP (2025), for one module trained over several passes; Y. Li et
al., EAGLE-3 (2025), section 3.1, for attention while unrolled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from recipes.mini_r1.model import Attention, MiniR1, rotate
from recipes.mini_r1.muon import Muon
from recipes.mini_r1.shape import Shape
from recipes.mini_r1.train import IGNORED, Batch, Plan, draw_pool

PASSES = 3  # the fourth and later ones draft as well, untrained
PLAN = Plan(seed=3, tokens=500_000, batch_tokens=2048, curriculum=((0.0, 1100, 0.25),))
MATRIX_RATE, OTHER_RATE = 1.5e-3, 2e-4  # well below the training's, and falling to nothing
WARM_UP = 20  # steps
LOG_STEPS = 20

Heads = tuple[Tensor, Tensor, Tensor]


def _heads(attention: Attention, x: Tensor, angles: tuple[Tensor, Tensor]) -> Heads:
    """q, k, v (B, H, T, D) float32 of the normalised x, turned by these angles."""
    shape, rows = attention.shape, x.shape[:2]
    heads, nope, rope = shape.num_attention_heads, shape.qk_nope_head_dim, shape.qk_rope_head_dim
    q = attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(x), x.dtype))
    q_nope, q_pe = q.view(*rows, heads, -1).split([nope, rope], -1)
    latent, k_pe = attention.kv_a_proj_with_mqa(x).split([shape.kv_lora_rank, rope], -1)
    kv = attention.kv_b_proj(attention.kv_a_layernorm(latent, x.dtype))
    k_nope, v = kv.view(*rows, heads, -1).split([nope, shape.v_head_dim], -1)
    k_pe = rotate(k_pe[:, :, None, :], *angles).expand(-1, -1, heads, -1)
    q = torch.cat((q_nope, rotate(q_pe, *angles)), -1)
    k = torch.cat((k_nope, k_pe), -1)
    return q.transpose(1, 2).float(), k.transpose(1, 2).float(), v.transpose(1, 2).float()


def _attend(q: Tensor, seen: Heads, own: list[Heads]) -> Tensor:
    """Place t looks at places [0, t] of the first pass and at itself in the passes since."""
    length, scale = q.shape[2], q.shape[3] ** -0.5
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (q @ seen[1].transpose(2, 3)).masked_fill(later, -torch.inf)
    mine = [(q * k).sum(-1, keepdim=True) for _, k, _ in own]
    shares = (torch.cat([scores, *mine], -1) * scale).softmax(-1)
    y = shares[..., :length] @ seen[2]
    for index, (_, _, v) in enumerate(own):
        y = y + shares[..., length + index, None] * v
    return y


def unroll(model: MiniR1, hidden: Tensor, ids: Tensor, passes: int) -> Iterator[Tensor]:
    """Logits (B, T, V) of each pass: pass p at place t has seen tokens up to t + p and guesses
    token t + p + 1.  `hidden` is the trunk's output.

    Where the text ends before a pass's token its row means nothing.
    """
    mtp, compute, length = model.mtp, model.compute, ids.shape[1]
    layer, attention = mtp.layer, mtp.layer.self_attn
    state = model.norm(hidden, compute)
    done: list[Heads] = []
    for number in range(1, passes + 1):
        tokens = functional.pad(ids[:, number:], (0, number))
        embedded = mtp.enorm(functional.embedding(tokens, model.embed_tokens), compute)
        joined = torch.cat((embedded, mtp.hnorm(state, compute)), dim=-1)
        x = mtp.eh_proj(joined).float()
        cos, sin = (part[number - 1 : number - 1 + length] for part in model.angles)
        done.append(_heads(attention, layer.input_layernorm(x, compute), (cos, sin)))
        y = _attend(done[-1][0], done[0], done[1:])
        x = x + attention.o_proj(y.transpose(1, 2).flatten(-2).to(compute))
        x = x + layer.mlp(layer.post_attention_layernorm(x, compute))
        state = mtp.norm(x, compute)
        yield model.lm_head(state)


def asked(labels: Tensor, number: int) -> Tensor:
    """(B, T) places where a pass's guess is of use: it and the token that the trunk drew before
    the first pass belong to an answer."""
    ahead = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    wanted = functional.pad(labels[:, number + 1 :], (0, number + 1), value=IGNORED)
    return (ahead != IGNORED) & (wanted != IGNORED)


def losses(model: MiniR1, batch: Batch) -> Tensor:
    """(PASSES,) each pass's cross-entropy against what the trunk expects at its place."""
    with torch.no_grad():
        hidden = model.trunk(batch.ids)
        expected = model.logits(hidden).float().softmax(-1)
    parts = []
    for number, logits in enumerate(unroll(model, hidden, batch.ids, PASSES), 1):
        at = asked(batch.labels, number)
        wanted = functional.pad(expected[:, number:], (0, 0, 0, number))[at]
        parts.append(functional.cross_entropy(logits[at].float(), wanted))
    return torch.stack(parts)


def optimizers(model: MiniR1) -> list[torch.optim.Optimizer]:
    """For the module alone; each group's `peak` is its highest rate."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.mtp.named_parameters():
        is_matrix = parameter.dim() > 1 and not name.endswith(".gate.weight")
        (matrices if is_matrix else others).append(parameter)
    made = [
        Muon(matrices, MATRIX_RATE),
        torch.optim.AdamW(others, OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def train(model: MiniR1, tokenizer: Tokenizer, plan: Plan) -> Iterator[dict[str, object]]:
    """Trains the module in place; yields what is to be logged."""
    model.requires_grad_(False)
    model.mtp.requires_grad_(True)
    own = optimizers(model)
    tokens = step = pool = 0
    means = torch.zeros(PASSES)
    while tokens < plan.tokens:
        for batch in draw_pool(plan, tokenizer, pool, tokens / plan.tokens):
            parts = losses(model, batch)
            parts.sum().backward()
            torch.nn.utils.clip_grad_norm_(model.mtp.parameters(), 1.0)
            rate = min(1 - tokens / plan.tokens, (step + 1) / WARM_UP)
            for optimizer in own:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + batch.ids.numel()
            means += parts.detach() / LOG_STEPS
            if step % LOG_STEPS == 0:
                shown = [round(float(mean), 4) for mean in means]
                yield {"step": step, "tokens": tokens, "losses": shown}
                means = torch.zeros(PASSES)
            if tokens >= plan.tokens:
                break
        pool += 1


@torch.no_grad()
def rates(model: MiniR1, batches: list[Batch], passes: int) -> list[dict[str, float]]:
    """How often each pass guesses what the trunk says, where the passes before it were right."""
    found = [{"drafted": 0, "accepted": 0, "rate": 0.0} for _ in range(passes)]
    for batch in batches:
        hidden = model.trunk(batch.ids)
        said = model.logits(hidden).argmax(-1)
        right = torch.ones_like(batch.ids, dtype=torch.bool)
        for number, logits in enumerate(unroll(model, hidden, batch.ids, passes), 1):
            at = asked(batch.labels, number) & right
            right = at & (logits.argmax(-1) == functional.pad(said[:, number:], (0, number)))
            found[number - 1]["drafted"] += int(at.sum())
            found[number - 1]["accepted"] += int(right.sum())
    for own in found:
        own["rate"] = own["accepted"] / max(1, own["drafted"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run of train")
    parser.add_argument("--out", type=Path, required=True, help="as it, with another module")
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "state.pt", weights_only=True)
    model = MiniR1(Shape(), getattr(torch, PLAN.compute))
    model.load_state_dict(state["model"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "run.json"):
        (arguments.out / name).write_bytes((arguments.run / name).read_bytes())
    tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
    started = time.monotonic()
    with (arguments.out / "drafts.jsonl").open("w") as log:
        for line in train(model, tokenizer, PLAN):
            text = json.dumps(line | {"seconds": round(time.monotonic() - started)})
            print(text, flush=True)
            log.write(text + "\n")
    torch.save(state | {"model": model.state_dict()}, arguments.out / "state.pt")


if __name__ == "__main__":
    main()
