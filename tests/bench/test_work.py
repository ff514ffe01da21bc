"""What a step must read and multiply."""

import pytest

from cells import CELLS, Cell
from dsv3_mini import CONFIG
from tests.models.tiny import CONFIGS
from tribody.models.config import read_config
from work import kv_token_bytes, num_weights, work_of

DSV3 = read_config(CONFIG)


def test_dsv3_mini_has_the_stated_size() -> None:
    assert num_weights(DSV3) == pytest.approx(756.9e6, rel=1e-3)
    assert kv_token_bytes(DSV3) == 12 * (512 + 64) * 2


def test_one_token_uses_a_part_of_the_experts() -> None:
    """222 million weights a token, all but the embedding's row and the experts not chosen."""
    cell = Cell("x", "decode", 1, 0, 10)
    work = work_of(DSV3, cell)
    assert work.weights == pytest.approx(222.2e6, rel=1e-3)
    assert work.macs == 10 * work.weights
    assert work.kv_bytes == 5 * kv_token_bytes(DSV3)


def test_many_tokens_share_experts() -> None:
    """n tokens that choose 4 of 32 evenly reach 1 - (7/8)^n of them."""
    one, eight = (work_of(DSV3, Cell("x", "decode", n, 128, 10)) for n in (1, 8))
    routed = 11 * 32 * 3 * 512 * 1024
    assert eight.weights - one.weights == pytest.approx(routed * (7 / 8 - (7 / 8) ** 8), rel=1e-6)
    assert eight.macs == 8 * one.macs


def test_a_prefill_reads_nothing_that_counts_and_ends_in_one_row_of_logits() -> None:
    work = work_of(DSV3, CELLS[0])
    head = 49152 * 1024
    assert (work.weights, work.kv_bytes) == (0, 0)
    per_token = work_of(DSV3, Cell("x", "decode", 1, 0, 1)).macs - head
    assert work.macs == 512 * per_token + head


def test_a_tied_embedding_is_the_head() -> None:
    untied, tied = (read_config(CONFIGS[name]) for name in ("llama", "llama-llama3-tied"))
    cell = Cell("x", "decode", 1, 0, 1)
    assert work_of(untied, cell).weights == work_of(tied, cell).weights
    assert kv_token_bytes(untied) == 3 * 2 * 2 * 16 * 2
