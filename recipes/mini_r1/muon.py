"""Muon: momentum whose direction is made orthogonal, for matrices; AdamW does the rest.

Sources: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), for
the method and the quintic Newton-Schulz coefficients; J. Liu et al., "Muon is scalable for LLM
training" (2025), for the factor 0.2 sqrt(max(rows, columns)) that lets AdamW's rate serve both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, rows, columns) to about the nearest ones with singular values of one."""
    a, b, c = COEFFICIENTS
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return (x.transpose(1, 2) if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices (rows, columns) and stacks of them (N, rows, columns).

    Equal shapes are orthogonalised together.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                by_shape[tuple(parameter.shape[-2:])].append(parameter)
            for shape, parameters in by_shape.items():
                self._step_shape(shape, parameters, group)

    def _step_shape(
        self, shape: tuple[int, ...], parameters: list[nn.Parameter], group: dict[str, float]
    ) -> None:
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
            directions.append(nesterov.view(-1, *shape))
        moves = orthogonalise(torch.cat(directions))
        scale = 0.2 * max(shape) ** 0.5
        counts = [len(direction) for direction in directions]
        for parameter, move in zip(parameters, moves.split(counts), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(move.view_as(parameter), alpha=group["lr"] * scale)
