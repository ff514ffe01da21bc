"""Shares of another file's loss, and which tensors of llama.cpp's are one matrix here."""

import numpy as np
import pytest

from quality_peers import row_of, tensors_of


def test_joined_matrices_are_several_of_their_tensors() -> None:
    assert list(tensors_of("model.layers.12.self_attn.q_proj+k_proj+v_proj")) == [
        "blk.12.attn_q.weight",
        "blk.12.attn_k.weight",
        "blk.12.attn_v.weight",
    ]
    assert list(tensors_of("model.layers.0.mlp.down_proj")) == ["blk.0.ffn_down.weight"]


def test_a_file_that_loses_a_third_has_a_share_of_a_third() -> None:
    """Sums of the reference's loss, the file's and KL, over chunks of 100 tokens."""
    rng = np.random.default_rng(1)
    counts = np.full(30, 100.0)
    reference = counts * rng.uniform(2.5, 3.5, 30)
    steps = {0.06: "base", 0.02: "own"}
    base, own = (
        np.stack([reference, reference + counts * step, counts * step / 2], axis=1)
        for step in steps
    )
    row = row_of("own", 1000, 4.9, own, base, counts)
    assert row.loss == pytest.approx(np.expm1(0.02))
    assert row.share == pytest.approx(np.expm1(0.02) / np.expm1(0.06))
    assert row.share_interval.low == pytest.approx(row.share)
    assert row.kl_nats == pytest.approx(0.01)
    assert row.perplexity == pytest.approx(np.exp(own[:, 1].sum() / counts.sum()))
    itself = row_of("base", 1000, 6.2, base, base, counts)
    assert itself.share == pytest.approx(1)
