"""The trainer: it learns, it can be interrupted, and Muon does what its name says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes.mini_r1 import drafts
from recipes.mini_r1.drafts import rates
from recipes.mini_r1.evaluate import expert_loads
from recipes.mini_r1.generate import short_example
from recipes.mini_r1.model import MiniR1, initialise
from recipes.mini_r1.muon import orthogonalise
from recipes.mini_r1.shape import Shape
from recipes.mini_r1.tokenizer import PAD_ID
from recipes.mini_r1.train import IGNORED, Plan, Run, batches, draw_pool, encode

pytestmark = pytest.mark.parity

SHAPE = Shape(hidden_size=64, num_hidden_layers=2, moe_intermediate_size=32, intermediate_size=64)
PLAN = Plan(tokens=40_000, batch_tokens=1024, pool_batches=6, compute="float32", questions=2)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    """Stopped within a pool of batches, and started again in a new object."""
    whole = Run(tmp_path / "whole", PLAN, SHAPE)
    whole.train(until_step=9)
    for stop in (4, 9):
        parted = Run(tmp_path / "parted", PLAN, SHAPE)
        parted.train(until_step=stop)
    assert (parted.step, parted.tokens, parted.pool) == (whole.step, whole.tokens, whole.pool)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parted.model.state_dict()[name]), name


def test_a_run_of_another_plan_is_not_continued(tmp_path: Path) -> None:
    Run(tmp_path, PLAN, SHAPE).save()
    with pytest.raises(SystemExit, match="another plan"):
        Run(tmp_path, Plan(tokens=50_000), SHAPE)


def test_losses_fall(tmp_path: Path) -> None:
    run = Run(tmp_path, PLAN, SHAPE)
    (tmp_path / "log.jsonl").unlink(missing_ok=True)
    pool = draw_pool(PLAN, run.tokenizer, 0, 0.0)
    from recipes.mini_r1.train import Sums, losses

    before = sum(float(losses(run.model, batch, 1.0)[1].detach()) for batch in pool)
    for batch in pool * 4:
        run._step(batch, 0.3, Sums(float), Sums(float))
    after = sum(float(losses(run.model, batch, 1.0)[1].detach()) for batch in pool)
    assert after < 0.8 * before


def test_batches_hold_every_example_once(tmp_path: Path) -> None:
    from random import Random

    run = Run(tmp_path, PLAN, SHAPE)
    rows = encode(run.tokenizer, [short_example(Random(seed)) for seed in range(80)])
    made = batches(rows, 512, "short")
    found = []
    for batch in made:
        for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            length = len([i for i in ids if i != PAD_ID])
            assert all(label == IGNORED for label in labels[length:])
            found.append((ids[:length], labels[:length]))
    assert sorted(found) == sorted(rows)


def test_orthogonalise_gives_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((48, 96), (96, 48)):
        matrices = torch.randn(3, rows, columns, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_the_bias_evens_out_loads() -> None:
    """A skewed router, a hundred updates: no expert is starved any more."""
    model = MiniR1(SHAPE)
    initialise(model, 2)
    router = model.layers[1].mlp.gate
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(3)) + 0.7
    with torch.no_grad():

        def loads() -> torch.Tensor:
            chosen, _weights = router(x)
            return chosen.flatten().bincount(minlength=16).float()

        first = loads()
        for _ in range(150):
            router.load += loads()
            router.update_bias(5e-3)
        last = loads()
    assert first.min() / first.mean() < 0.3
    assert last.min() / last.mean() > 0.6


def test_acceptance_and_loads_of_a_random_model(tmp_path: Path) -> None:
    """Counts add up; a random model's drafts are rarely what its trunk says."""
    from recipes.mini_r1.evaluate import item_batches
    from recipes.mini_r1.generate import held_out

    run = Run(tmp_path, PLAN, SHAPE)
    items = list(held_out(5, 3, "held_out"))
    made = item_batches(run.tokenizer, items)
    first, second = rates(run.model, made, 2)
    learned = sum(int((batch.labels != IGNORED).sum()) for batch in made)
    assert first["drafted"] == learned - len(items)
    assert second["drafted"] <= first["accepted"]
    assert first["rate"] < 0.7
    loads = expert_loads(run.model, made)
    assert 0 <= loads["least"] <= 1 <= loads["most"] <= 4.0
    assert set(loads["by_layer"]) == {"layers.1"}


def test_the_module_learns_to_go_on_and_the_trunk_stays(tmp_path: Path) -> None:
    run = Run(tmp_path, PLAN, SHAPE)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    plan = replace(PLAN, tokens=11_000, batch_tokens=256)
    lines = list(drafts.train(run.model, run.tokenizer, plan))
    changed = {
        name
        for name, value in run.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("mtp.") for name in changed)
    first, last = lines[0]["losses"], lines[-1]["losses"]
    assert isinstance(first, list)
    assert isinstance(last, list)
    assert all(end < start for start, end in zip(first, last, strict=True))
