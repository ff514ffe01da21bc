"""The executor: hand-made plans in, tokens out, equal to the model's own logits."""

import numpy as np
import pytest

from tests.models.tiny import tiny_checkpoint, tiny_tokens
from tribody.core.request import Chunk, SampleSlot, SamplingParams, StepPlan
from tribody.engine.model_executor import ModelExecutor, pieces, step_input
from tribody.memory.kv_store import KVStore
from tribody.models.load import load_model
from tribody.ops import reference

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)


def executor(name: str, max_step_tokens: int = 64) -> ModelExecutor:
    model = load_model(tiny_checkpoint(name), reference.OPS, "float32")
    kv = KVStore(model.kv_layout, 16, "float32")
    return ModelExecutor(model, reference.OPS, kv, max_step_tokens)


def slot(sequence_id: int, position: int = 0, params: SamplingParams = GREEDY) -> SampleSlot:
    return SampleSlot(sequence_id, 0, position, params, [], [], "r")


def greedy(run: ModelExecutor, prompt: list[int], pages: list[int], count: int) -> list[int]:
    """`count` tokens, one step each, alone in the batch."""
    plan = StepPlan(1, [Chunk(1, prompt, 0, pages, False, [slot(1)])])
    tokens = [run.run(plan).tokens[0].token_id]
    while len(tokens) < count:
        start = len(prompt) + len(tokens) - 1
        chunk = Chunk(1, tokens[-1:], start, pages, True, [slot(1, len(tokens))])
        tokens.append(run.run(StepPlan(2, [chunk])).tokens[0].token_id)
    return tokens


def test_step_input_arrays() -> None:
    chunks = [
        Chunk(1, [9], 65, [4, 2], True),
        Chunk(2, [5, 6, 7], 63, [1, 3], False),
    ]
    step = step_input(chunks, np.array([0, 3]))
    assert step.token_ids.tolist() == [9, 5, 6, 7]
    assert step.positions.tolist() == [65, 63, 64, 65]
    assert step.slots.tolist() == [2 * 64 + 1, 64 + 63, 3 * 64, 3 * 64 + 1]
    assert step.batch.row_starts.tolist() == [0, 1, 4]
    assert step.batch.starts.tolist() == [65, 63]
    assert step.batch.page_tables.tolist() == [[4, 2], [1, 3]]
    angles = np.zeros((4, 2), np.float32)
    generated, prompts = step.rows((angles, angles)).split()
    assert (generated.row_starts.tolist(), prompts.row_starts.tolist()) == ([0, 1], [0, 3])
    assert prompts.page_tables.tolist() == [[1, 3]]
    for array in (step.token_ids, step.batch.row_starts, step.batch.starts):
        assert array.dtype == np.int32


@pytest.mark.parametrize("name", ["llama", "v3-q-lora"])
def test_results_come_in_the_order_of_the_plan(name: str) -> None:
    """Prompts stand before generated tokens in the plan; the executor reorders, results do not."""
    prompts = [tiny_tokens(5 + 3 * i, seed=i) for i in range(4)]
    alone = [greedy(executor(name), p, [3], 3) for p in prompts]
    run = executor(name)
    first = [Chunk(i, prompts[i], 0, [i], False, [slot(i)]) for i in (0, 1)]
    got = run.run(StepPlan(1, first)).tokens
    assert [t.token_id for t in got] == [alone[0][0], alone[1][0]]
    mixed = [
        Chunk(2, prompts[2], 0, [2], False, [slot(2)]),
        Chunk(0, [alone[0][0]], len(prompts[0]), [0], True, [slot(0, 1)]),
        Chunk(3, prompts[3][:4], 0, [3], False),
        Chunk(1, [alone[1][0]], len(prompts[1]), [1], True, [slot(1, 1)]),
    ]
    got = run.run(StepPlan(2, mixed)).tokens
    assert [t.sequence_id for t in got] == [2, 0, 1]
    assert [t.token_id for t in got] == [alone[2][0], alone[0][1], alone[1][1]]
    rest = [Chunk(3, prompts[3][4:], 4, [3], False, [slot(3)])]
    assert run.run(StepPlan(3, rest)).tokens[0].token_id == alone[3][0]


def test_several_samples_share_a_row_and_page_copies_come_first() -> None:
    """A prompt forks into two choices; the second gets a copy of the page before it writes."""
    prompt = tiny_tokens(10)
    alone = greedy(executor("llama"), prompt, [3], 3)
    run = executor("llama")
    slots = [slot(1), SampleSlot(1, 1, 0, GREEDY, [], [], "r")]
    both = run.run(StepPlan(1, [Chunk(1, prompt, 0, [3], False, slots)])).tokens
    assert [t.token_id for t in both] == [alone[0], alone[0]]
    chunks = [
        Chunk(1, [99], 10, [3], True, [slot(1, 1)]),
        Chunk(2, [alone[0]], 10, [5], True, [slot(2, 1)]),
    ]
    twins = run.run(StepPlan(2, chunks, page_copies=[(3, 5)])).tokens
    assert twins[1].token_id == alone[1]


def test_a_plan_without_samples_or_chunks() -> None:
    run = executor("llama")
    assert run.run(StepPlan(1, [Chunk(1, [1, 2], 0, [0], False)])).tokens == []
    assert run.run(StepPlan(2, [], page_copies=[(0, 1)])).tokens == []


@pytest.mark.parametrize("name", ["llama", "v3-q-lora"])
def test_logit_chunks_cover_the_wanted_positions(name: str) -> None:
    tokens, run = tiny_tokens(150), executor(name, max_step_tokens=40)
    parts = [(p, x.copy()) for p, x in run.logit_chunks(tokens, 0, "float32")]
    whole = np.concatenate([x for _, x in parts])
    assert whole.shape == (150, 101)
    assert [p for p, _ in parts] == [0, 40, 80, 120]
    late = [(p, x.copy()) for p, x in run.logit_chunks(tokens, 97, "float32")]
    assert late[0][0] == 97
    scale = np.abs(whole).max()
    np.testing.assert_allclose(
        np.concatenate([x for _, x in late]), whole[97:], atol=64 * 2.0**-23 * scale
    )


def test_pieces() -> None:
    assert pieces(10, 0, 512) == [(0, 10)]
    assert pieces(300, 0, 512) == [(0, 128), (128, 256), (256, 300)]
    assert pieces(1000, 700, 512) == [(0, 512), (512, 700), (700, 828), (828, 956), (956, 1000)]


def test_damaged_weights_fail_the_choice_with_an_error() -> None:
    """Infinity in one embedding row reaches only the sequence that uses that token."""
    checkpoint = tiny_checkpoint("llama")
    checkpoint.tensors["model.embed_tokens.weight"][50, 3] = np.inf
    model = load_model(checkpoint, reference.OPS, "float32")
    run = ModelExecutor(model, reference.OPS, KVStore(model.kv_layout, 4, "float32"), 64)
    chunks = [
        Chunk(1, [1, 2, 50], 0, [0], False, [slot(1)]),
        Chunk(2, [1, 2, 3], 0, [1], False, [slot(2)]),
    ]
    with np.errstate(all="ignore"):
        bad, good = run.run(StepPlan(1, chunks)).tokens
    assert bad.error is not None
    assert good.error is None
