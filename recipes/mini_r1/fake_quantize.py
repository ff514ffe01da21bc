"""tribody's run-time weight formats in torch, for training through them.

`rounded(weights, format)` gives what the plain quantizers of `tribody.precision` stand for, bit for
bit (tests/parity holds the two together), and passes gradients straight through.  So a model that
was trained through a format and is saved in float32 loads, in that format, with exactly the weights
that it was trained with.

Source: Y. Bengio, N. Leonard and A. Courville, "Estimating or propagating gradients through
stochastic neurons" (2013), for the straight-through estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.utils import parametrize

from tribody.core.config import WeightFormat

GROUP = 32  # columns of one scale
LEVELS: dict[WeightFormat, int] = {"w8g32": 127, "w6g32": 31, "w5m32": 31, "w4m32": 15}
SYMMETRIC = ("w8g32", "w6g32")
BYTE, STEPS = 255.0, 256.0  # largest byte of a scale; steps in a unit


def _inverse(scales: Tensor) -> Tensor:
    return torch.where(scales > 0, 1.0 / scales, 0.0)


def _symmetric(groups: Tensor, levels: int) -> Tensor:
    scales = (groups.abs().amax(-1) / levels).half().float()[..., None]
    return (groups * _inverse(scales)).round().clamp(-levels, levels) * scales


def _in_bytes(values: Tensor) -> Tensor:
    """Values (..., G) as counts of their row's unit, decoded again."""
    units = (values.amax(-1, keepdim=True) / BYTE * STEPS).half().float() / STEPS
    counts = torch.where(units > 0, values / units, 0.0).round().clamp(0, BYTE)
    return counts * units


def _with_minimum(groups: Tensor, levels: int) -> Tensor:
    lowest = groups.amin(-1).clamp(max=0.0)
    scales = _in_bytes((groups.amax(-1) - lowest) / levels)[..., None]
    minima = _in_bytes(-lowest)[..., None]
    codes = ((groups + minima) * _inverse(scales)).round().clamp(0, levels)
    return codes * scales - minima


@torch.no_grad()
def decoded(weights: Tensor, weight_format: WeightFormat) -> Tensor:
    """Float32 (..., K) to what it becomes; groups run along the last axis."""
    columns = weights.shape[-1]
    groups = functional.pad(weights, (0, -columns % GROUP)).unflatten(-1, (-1, GROUP))
    levels = LEVELS[weight_format]
    symmetric = weight_format in SYMMETRIC
    values = _symmetric(groups, levels) if symmetric else _with_minimum(groups, levels)
    return values.flatten(-2)[..., :columns]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, weight_format: WeightFormat) -> Tensor:
        return decoded(weights, weight_format)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def rounded(weights: Tensor, weight_format: WeightFormat) -> Tensor:
    """`decoded`, with the gradient of the identity."""
    result: Tensor = _StraightThrough.apply(weights, weight_format)
    return result


class FakeQuantize(nn.Module):
    """A parametrization; `inputs_last` is false for stacks (E, inputs, outputs)."""

    def __init__(self, weight_format: WeightFormat, *, inputs_last: bool) -> None:
        super().__init__()
        self.weight_format = weight_format
        self.inputs_last = inputs_last

    def forward(self, weights: Tensor) -> Tensor:
        if self.inputs_last:
            return rounded(weights, self.weight_format)
        return rounded(weights.transpose(-1, -2), self.weight_format).transpose(-1, -2)


def train_through(model: nn.Module, formats: dict[str, WeightFormat]) -> None:
    """Make the model compute with rounded weights; `formats` maps parameter names.

    The parameters themselves stay float32 and are what an optimizer moves.
    """
    for name, weight_format in formats.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        inputs_last = getattr(module, leaf).dim() == 2
        # "unsafe" skips a trial run of the rounding at registration, nothing else.
        parametrize.register_parametrization(
            module, leaf, FakeQuantize(weight_format, inputs_last=inputs_last), unsafe=True
        )
