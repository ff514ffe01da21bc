"""DeepSeek-V3 for training: latent attention, sigmoid-gated experts, one MTP module.

The parameters carry the names of a Hugging Face checkpoint, except that a layer's routed experts
are stacked, (E, ...), and computed in one pass over the tokens sorted by expert (`experts`).
Attention is the expanded form.  `tests/parity` holds the trunk to transformers' DeepSeek-V3; the
MTP module has no reference there and follows the DeepSeek-V3 report, section 2.2.

Number formats: parameters, residual stream, norms, router and loss are float32; matrix products
and what flows between them inside a block are `compute`, bfloat16 or float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from recipes.mini_r1.shape import Shape


class RMSNorm(nn.Module):
    """x / rms(x) * weight; reads float32 or bfloat16, computes in float32, returns `out`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, out: torch.dtype) -> Tensor:
        return functional.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps).to(out)


class Linear(nn.Module):
    """x @ weight.T in the number format of x."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))


def rotary(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (length, qk_rope_head_dim / 2)."""
    half = shape.qk_rope_head_dim // 2
    frequencies = shape.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the interleaved pairs of x (B, T, H, D) by the angles of `rotary`'s first T rows."""
    length = x.shape[1]
    cos, sin = (part[:length, None, :].to(x.dtype) for part in (cos, sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Multi-head latent attention, expanded: (B, T, hidden) to (B, T, hidden), causal."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        heads, hidden, eps = shape.num_attention_heads, shape.hidden_size, shape.rms_norm_eps
        self.q_a_proj = Linear(hidden, shape.q_lora_rank)
        self.q_a_layernorm = RMSNorm(shape.q_lora_rank, eps)
        self.q_b_proj = Linear(shape.q_lora_rank, heads * shape.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(hidden, shape.kv_lora_rank + shape.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(shape.kv_lora_rank, eps)
        self.kv_b_proj = Linear(
            shape.kv_lora_rank, heads * (shape.qk_nope_head_dim + shape.v_head_dim)
        )
        self.o_proj = Linear(heads * shape.v_head_dim, hidden)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        batch, length, _ = x.shape
        heads, nope = shape.num_attention_heads, shape.qk_nope_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x), x.dtype))
        q_nope, q_pe = q.view(batch, length, heads, -1).split([nope, shape.qk_rope_head_dim], -1)
        latent, k_pe = self.kv_a_proj_with_mqa(x).split(
            [shape.kv_lora_rank, shape.qk_rope_head_dim], -1
        )
        kv = self.kv_b_proj(self.kv_a_layernorm(latent, x.dtype))
        k_nope, v = kv.view(batch, length, heads, -1).split([nope, shape.v_head_dim], -1)
        k_pe = rotate(k_pe[:, :, None, :], *angles).expand(-1, -1, heads, -1)
        q = torch.cat((q_nope, rotate(q_pe, *angles)), -1).transpose(1, 2)
        k = torch.cat((k_nope, k_pe), -1).transpose(1, 2)
        # float32: torch's CPU attention is three times slower in bfloat16 (docs/log.md).
        y = functional.scaled_dot_product_attention(
            q.float(), k.float(), v.transpose(1, 2).float(), is_causal=True
        )
        return self.o_proj(y.transpose(1, 2).flatten(-2).to(x.dtype))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, inner)
        self.up_proj = Linear(hidden, inner)
        self.down_proj = Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """The sigmoid gate with group-limited choice; float32 throughout.

    `e_score_correction_bias` takes part in the choice only and has no gradient: `update_bias`
    moves it after each step by the loads counted since (auxiliary-loss-free balancing).
    Source: DeepSeek-V3 report, section 2.1.2.
    """

    e_score_correction_bias: Tensor
    load: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape.n_routed_experts, shape.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.n_routed_experts))
        self.register_buffer("load", torch.zeros(shape.n_routed_experts), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, hidden) to the chosen experts (N, k) and their weights (N, k)."""
        shape = self.shape
        scores = functional.linear(x.float(), self.weight).sigmoid()
        with torch.no_grad():
            biased = scores + self.e_score_correction_bias
            grouped = biased.view(len(x), shape.n_group, -1)
            group_scores = grouped.topk(2, dim=-1).values.sum(-1)
            kept = group_scores.topk(shape.topk_group, dim=-1).indices
            dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
            allowed = grouped.masked_fill(dropped[..., None], -torch.inf).flatten(1)
            chosen = allowed.topk(shape.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * shape.routed_scaling_factor
        return chosen, weights

    @torch.no_grad()
    def update_bias(self, speed: float) -> None:
        """Raise the bias of experts under the mean load and lower the others', by `speed`."""
        self.e_score_correction_bias += speed * (self.load.mean() - self.load).sign()
        self.load.zero_()


class _Scatter(torch.autograd.Function):
    """Row i of x (N, hidden) to the k rows `slots[i]` of an otherwise zero (rows, hidden)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, slots: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(slots)
        k = slots.shape[1]
        spread = x[:, None].expand(-1, k, -1).reshape(-1, x.shape[1])
        return x.new_zeros(rows, x.shape[1]).index_copy_(0, slots.flatten(), spread)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return g[slots.flatten()].view(*slots.shape, -1).sum(1), None, None


class _Gather(torch.autograd.Function):
    """The rows `slots` (N, k) of y (rows, hidden): (N k, hidden).  No row is named twice."""

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = y.shape[0]
        return y[slots.flatten()]

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        return g.new_zeros(ctx.rows, g.shape[1]).index_copy_(0, slots.flatten(), g), None


class Experts(nn.Module):
    """The routed experts of one layer, stacked, as three batched matrix products.

    gate_up (E, hidden, 2 inner): gate columns first; down (E, inner, hidden).  Every expert gets
    a room of equally many rows, a multiple of `ROOM`: few shapes, because a matrix library that
    compiles its kernels does so for each new one.  No token is dropped.
    """

    ROOM = 256

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        count, hidden = shape.n_routed_experts, shape.hidden_size
        self.gate_up = nn.Parameter(torch.empty(count, hidden, 2 * shape.moe_intermediate_size))
        self.down = nn.Parameter(torch.empty(count, shape.moe_intermediate_size, hidden))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """x (N, hidden), chosen and weights (N, k), counts (E,) tokens of each: (N, hidden)."""
        experts, k = len(counts), chosen.shape[1]
        room = -(-int(counts.max()) // self.ROOM) * self.ROOM
        order = chosen.flatten().argsort(stable=True)
        first = counts.cumsum(0) - counts
        in_order = torch.arange(len(order), device=order.device)
        expert = chosen.flatten()[order]
        slots = torch.empty_like(order)
        slots[order] = in_order - first[expert] + expert * room
        slots = slots.view(-1, k)
        rows = _Scatter.apply(x, slots, experts * room).view(experts, room, -1)
        gate, up = torch.bmm(rows, self.gate_up.to(x.dtype)).chunk(2, -1)
        y = torch.bmm(functional.silu(gate) * up, self.down.to(x.dtype))
        back = _Gather.apply(y.flatten(0, 1), slots).view(len(x), k, -1)
        return torch.bmm(weights.to(y.dtype)[:, None, :], back)[:, 0]


class MoE(nn.Module):
    """Routed experts plus the shared expert."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = Router(shape)
        self.experts = Experts(shape)
        self.shared_experts = MLP(
            shape.hidden_size, shape.n_shared_experts * shape.moe_intermediate_size
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        chosen, weights = self.gate(flat)
        counts = torch.bincount(chosen.flatten(), minlength=self.gate.shape.n_routed_experts)
        self.gate.load += counts
        routed = self.experts(flat, chosen, weights, counts)
        return routed.view_as(x) + self.shared_experts(x)


class Layer(nn.Module):
    """One decoder layer on the float32 residual stream x (B, T, hidden)."""

    def __init__(self, shape: Shape, *, sparse: bool) -> None:
        super().__init__()
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp: nn.Module = MoE(shape) if sparse else MLP(hidden, shape.intermediate_size)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], compute: torch.dtype) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x, compute), angles)
        return x + self.mlp(self.post_attention_layernorm(x, compute))


class MTP(nn.Module):
    """The multi-token-prediction module: sees h_t and token t+1, predicts token t+2.

    Embedding and head are the trunk's.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.enorm = RMSNorm(hidden, eps)
        self.hnorm = RMSNorm(hidden, eps)
        self.eh_proj = Linear(2 * hidden, hidden)
        self.layer = Layer(shape, sparse=True)
        self.norm = RMSNorm(hidden, eps)  # shared_head.norm


class MiniR1(nn.Module):
    """Token ids (B, T) to logits; see `trunk` and `draft`."""

    def __init__(self, shape: Shape, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape = shape
        self.compute = compute
        self.embed_tokens = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))
        self.layers = nn.ModuleList(
            Layer(shape, sparse=index >= shape.first_k_dense_replace)
            for index in range(shape.num_hidden_layers)
        )
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = Linear(shape.hidden_size, shape.vocab_size)
        self.mtp = MTP(shape)
        self.angles = rotary(shape, shape.max_position_embeddings)

    def trunk(self, ids: Tensor) -> Tensor:
        """The last layer's output (B, T, hidden), float32, before the final norm."""
        x = functional.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            x = layer(x, self.angles, self.compute)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """The trunk's head: logits of the next token, for `trunk`'s output or rows of it."""
        return self.lm_head(self.norm(hidden, self.compute))

    def draft(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """`trunk`'s output and ids, both (B, T, ...), to (B, T-1, hidden) for `draft_logits`.

        Row t has seen h_t and token t+1; its logits are those of token t+2.
        """
        mtp = self.mtp
        joined = torch.cat(
            (
                mtp.enorm(functional.embedding(ids[:, 1:], self.embed_tokens), self.compute),
                mtp.hnorm(hidden[:, :-1], self.compute),
            ),
            dim=-1,
        )
        return mtp.layer(mtp.eh_proj(joined).float(), self.angles, self.compute)

    def draft_logits(self, drafted: Tensor) -> Tensor:
        return self.lm_head(self.mtp.norm(drafted, self.compute))

    def routers(self) -> list[Router]:
        return [module for module in self.modules() if isinstance(module, Router)]


def initialise(model: MiniR1, seed: int) -> None:
    """Normal weights: deviation 0.02 for the embedding, 0.5 / sqrt(inputs) for matrices.

    Outputs into the residual stream are scaled by 1 / sqrt(2 x layers); norms stay at one.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * model.shape.num_hidden_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            continue
        stacked = parameter.dim() == 3  # experts, (E, inputs, outputs)
        inputs = parameter.shape[-2 if stacked else -1]
        deviation = 0.02 if name == "embed_tokens" else 0.5 * inputs**-0.5
        if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down")):
            deviation *= depth
        with torch.no_grad():
            parameter.normal_(0.0, deviation, generator=generator)
