"""The formats that mini-r1 trains through are those that tribody runs, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipes.mini_r1.fake_quantize import LEVELS, decoded, rounded, train_through
from recipes.mini_r1.model import MiniR1, initialise
from recipes.mini_r1.shape import Shape
from tribody.precision.codes import decode, encode

pytestmark = pytest.mark.parity


def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    plain = rng.normal(0, 0.05, (24, 192)).astype(np.float32)
    heavy = (rng.standard_t(3, (24, 192)) * 0.02).astype(np.float32)
    uneven = plain[:, :150] * np.exp(rng.normal(0, 2, (24, 1))).astype(np.float32)
    zeros = plain.copy()
    zeros[3], zeros[5, 32:64] = 0, 0
    positive = np.abs(plain)
    return {"plain": plain, "heavy": heavy, "uneven": uneven, "zeros": zeros, "positive": positive}


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("weight_format", LEVELS)
def test_torch_and_numpy_round_alike(name: str, weight_format) -> None:
    values = cases()[name]
    expected = decode(weight_format, encode(values, weight_format), values.shape[-1])
    found = decoded(torch.from_numpy(values), weight_format).numpy()
    np.testing.assert_array_equal(found, expected)


def test_stacks_of_experts_are_rounded_along_their_inputs() -> None:
    model = MiniR1(Shape())
    initialise(model, 3)
    name = "layers.2.mlp.experts.gate_up"
    before = model.get_parameter(name).detach().clone()
    train_through(model, {name: "w4m32"})
    after = model.layers[2].mlp.experts.gate_up.detach()
    values = before.transpose(1, 2).contiguous().numpy()
    expected = decode("w4m32", encode(values, "w4m32"), values.shape[-1])
    np.testing.assert_array_equal(after.transpose(1, 2).numpy(), expected)


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    weights = torch.randn(4, 64, requires_grad=True)
    factor = torch.randn(4, 64)
    result = rounded(weights, "w4m32")
    (result * factor).sum().backward()
    assert torch.equal(result, decoded(weights, "w4m32"))
    assert torch.equal(weights.grad, factor)
