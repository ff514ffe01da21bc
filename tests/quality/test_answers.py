"""Answers of a tiny model, and the counting of right and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quality.conftest import Stages
from tests.quality.items import item, sample
from tribody.engine.llm import LLM
from tribody.quality.answers import Answer, answer_items, template_of
from tribody.quality.logits import LoadedModel
from tribody.quality.tasks import flips, scores

RIGHT = Answer(True, "42", 5, "stop")
WRONG = Answer(False, "41", 7, "stop")
CUT = Answer(False, "", 20, "length")
REFUSED = Answer(False, "", 0, "refused")


def test_answers_are_greedy_and_in_order(
    tiny_folder: Path, exact: LoadedModel, stages: Stages
) -> None:
    """Batched here, one by one through `LLM`: the same texts."""
    template = template_of(exact)
    assert template is not None
    items = [item(prompt=f"{'x' * (i % 7)}{i}?") for i in range(150)]
    stages.begin("test", len(items))
    answers = answer_items(exact, template, items, 6, stages)
    assert stages.left == [0]
    llm = LLM(tiny_folder, dtype="float32", kv_budget_bytes=1 << 22, num_threads=1)
    for given, answer in list(zip(items, answers, strict=True))[::30]:
        expected = llm.generate(given.prompt, max_tokens=6, temperature=0.0)
        assert answer.content == expected.text.lstrip("\n")
        assert answer.finish == expected.choices[0].finish_reason
        assert answer.num_tokens == len(expected.choices[0].token_ids)


def test_the_answer_follows_the_thinking(
    monkeypatch: pytest.MonkeyPatch, exact: LoadedModel, stages: Stages
) -> None:
    template = template_of(exact)
    assert template is not None
    said = "<think>\n7 + 5\n</think>\n\n 42 \n"
    monkeypatch.setattr(exact.built.tokenizer, "decode", lambda *_args, **_options: said)
    items = [item(), item(answer="43")]
    answers = answer_items(exact, template, items, 4, stages)
    assert [answer.right for answer in answers] == [True, False]
    assert answers[0].content.strip() == "42"


def test_a_prompt_that_does_not_fit_is_refused_and_wrong(
    exact: LoadedModel, stages: Stages
) -> None:
    template = template_of(exact)
    assert template is not None
    items = [item(), item(prompt="x" * 3000), item()]
    answers = answer_items(exact, template, items, 3, stages)
    assert answers[1] == REFUSED
    assert answers[0] == answers[2]


def test_scores_have_one_row_a_task_and_a_sum() -> None:
    items = sample()
    answers = [RIGHT, WRONG, RIGHT, CUT, RIGHT, RIGHT, *[REFUSED] * 6]
    rows = scores(items, answers)
    assert [(row.split, row.task, row.num_items, row.num_right) for row in rows] == [
        ("held_out", "add", 3, 2),
        ("held_out", "call", 3, 2),
        ("held_out", "overall", 6, 4),
        ("longer", "add", 3, 0),
        ("longer", "call", 3, 0),
        ("longer", "overall", 6, 0),
    ]
    assert (rows[2].num_cut, rows[5].num_refused) == (1, 6)
    assert rows[2].exact_match_interval.low < 4 / 6 < rows[2].exact_match_interval.high
    assert scores([], []) == []


def test_flips_are_counted_by_pairs() -> None:
    items = sample()
    first = [RIGHT, RIGHT, RIGHT, WRONG, WRONG, RIGHT, *[RIGHT] * 6]
    second = [RIGHT, WRONG, CUT, RIGHT, WRONG, RIGHT, *[RIGHT] * 6]
    changed, same = flips(items, first, second)
    assert (changed.correct_to_wrong, changed.wrong_to_correct) == (2, 1)
    assert changed.exact_match_difference == pytest.approx(-1 / 6)
    assert changed.mcnemar_p == 1.0
    assert (same.correct_to_wrong, same.wrong_to_correct, same.exact_match_difference) == (0, 0, 0)
    interval = same.exact_match_difference_interval
    assert interval.low < 0 < interval.high
