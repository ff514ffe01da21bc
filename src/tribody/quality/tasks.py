"""Right and wrong answers counted: scores with intervals, and what another precision changed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tribody.quality.answers import Answer
from tribody.quality.held_out import SPLITS, Item, Split
from tribody.quality.statistics import Interval, mcnemar_p, paired_difference, wilson

OVERALL = "overall"


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """Exact match on the items of one task and split; task "overall" is all of the split.

    `num_cut`: answers that ran into the token limit.  `num_refused`: prompts that do not fit the
    context.  Both count as wrong unless the cut answer was right.
    """

    split: Split
    task: str
    num_items: int
    num_right: int
    exact_match: float
    exact_match_interval: Interval
    num_cut: int
    num_refused: int
    mean_answer_tokens: float


class Flips(msgspec.Struct, frozen=True, kw_only=True):
    """One precision against the reference on the same items of one split.

    Difference and interval: Newcombe's method 10; p-value: exact McNemar (docs/quality.md).
    """

    split: Split
    num_items: int
    correct_to_wrong: int
    wrong_to_correct: int
    exact_match_difference: float
    exact_match_difference_interval: Interval
    mcnemar_p: float


def scores(items: Sequence[Item], answers: Sequence[Answer]) -> list[TaskScore]:
    """One row per split and task in order of appearance, then the split's overall row."""
    rows = []
    for split in SPLITS:
        pairs = [(i, a) for i, a in zip(items, answers, strict=True) if i.split == split]
        for task in dict.fromkeys(item.task for item, _answer in pairs):
            rows.append(_score(split, task, [a for i, a in pairs if i.task == task]))
        if pairs:
            rows.append(_score(split, OVERALL, [answer for _item, answer in pairs]))
    return rows


def _score(split: Split, task: str, answers: Sequence[Answer]) -> TaskScore:
    num_right = sum(answer.right for answer in answers)
    return TaskScore(
        split=split,
        task=task,
        num_items=len(answers),
        num_right=num_right,
        exact_match=num_right / len(answers),
        exact_match_interval=wilson(num_right, len(answers)),
        num_cut=sum(answer.finish == "length" for answer in answers),
        num_refused=sum(answer.finish == "refused" for answer in answers),
        mean_answer_tokens=sum(answer.num_tokens for answer in answers) / len(answers),
    )


def flips(
    items: Sequence[Item], reference: Sequence[Answer], other: Sequence[Answer]
) -> list[Flips]:
    """One row per split that has items; all three sequences are in the same order."""
    rows = []
    for split in SPLITS:
        pairs = [
            (first.right, second.right)
            for item, first, second in zip(items, reference, other, strict=True)
            if item.split == split
        ]
        if pairs:
            rows.append(_flips(split, pairs))
    return rows


def _flips(split: Split, pairs: Sequence[tuple[bool, bool]]) -> Flips:
    lost = sum(first and not second for first, second in pairs)
    gained = sum(second and not first for first, second in pairs)
    both = sum(first and second for first, second in pairs)
    return Flips(
        split=split,
        num_items=len(pairs),
        correct_to_wrong=lost,
        wrong_to_correct=gained,
        exact_match_difference=(gained - lost) / len(pairs),
        exact_match_difference_interval=paired_difference(
            both, lost, gained, len(pairs) - both - lost - gained
        ),
        mcnemar_p=mcnemar_p(lost, gained),
    )
