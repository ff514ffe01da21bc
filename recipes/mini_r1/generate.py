"""Examples without end: problems in phrases, split into trained, held out and longer.

Held out by hash: a problem instance whose hash is 0 modulo `SHARE`, and a phrase likewise
(`phrases`), is never trained on.  A held-out item is both: its values and its phrase are new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from recipes.mini_r1.lookup import draw_length, lookup
from recipes.mini_r1.phrases import phrases
from recipes.mini_r1.problems import LONGER, SHORT_TASKS, TRAINED, WEIGHTS, Problem

SHARE = 10
TASKS = (*SHORT_TASKS, "lookup", "lookup two hops")


@dataclass(frozen=True)
class Item:
    """One question with its reference answer; `split` is held_out or longer."""

    task: str
    split: str
    language: str
    prompt: str
    thinking: str
    answer: str
    tokens: int = 0  # lookups: the prompt's length that was aimed at


@dataclass(frozen=True)
class Turn:
    """What is read, then what is learned.  Both are text with control tokens."""

    read: str
    learned: str


def is_held_out(problem: Problem) -> bool:
    return int.from_bytes(sha256(problem.values.encode()).digest()[:4], "big") % SHARE == 0


def draw_held_out(rng: Random, task: str, split: str) -> Item:
    """A new item of a held-out split; for `longer`, sizes beyond what is trained on."""
    ranges = LONGER if split == "longer" else TRAINED
    tokens = 0
    while True:
        if task in SHORT_TASKS:
            problem = SHORT_TASKS[task](rng, ranges)
        else:
            tokens = draw_length(rng, ranges)
            problem = lookup(rng, tokens, hops=1 if task == "lookup" else 2)
        if is_held_out(problem):
            break
    phrase = rng.choice(phrases(problem.form, held_out=True))
    prompt = phrase.fill(problem.slots, problem.context)
    return Item(task, split, phrase.language, prompt, problem.thinking, problem.answer, tokens)


def held_out(seed: int, per_task: int, split: str) -> Iterator[Item]:
    """`per_task` different items of every task, the same for the same seed."""
    for task in TASKS:
        rng = Random(f"{seed}/{split}/{task}")
        seen: set[str] = set()
        while len(seen) < per_task:
            item = draw_held_out(rng, task, split)
            if item.prompt not in seen:
                seen.add(item.prompt)
                yield item


def held_out_lookups(seed: int, count: int, tokens: int) -> Iterator[Item]:
    """Single-hop look-ups whose prompts are all about `tokens` long."""
    rng = Random(f"{seed}/lookup/{tokens}")
    while count:
        problem = lookup(rng, tokens, hops=1)
        if is_held_out(problem):
            phrase = rng.choice(phrases(problem.form, held_out=True))
            prompt = phrase.fill(problem.slots, problem.context)
            yield Item(
                "lookup",
                "held_out",
                phrase.language,
                prompt,
                problem.thinking,
                problem.answer,
                tokens,
            )
            count -= 1


BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
THINKING, NOT_THINKING = "<think>\n", "<think>\n\n</think>\n\n"


def opening(prompt: str, *, thinking: bool) -> str:
    """One user turn and the assistant's opening, as R1's chat template writes them."""
    return f"<｜User｜>{prompt}<｜Assistant｜>{THINKING if thinking else NOT_THINKING}"


def solved(item: Item) -> list[Turn]:
    """A held-out item with its reference solution: the prompt is read, the rest predicted."""
    learned = f"{item.thinking}\n</think>\n\n{item.answer}{EOS}"
    return [Turn(BOS + opening(item.prompt, thinking=True), learned)]


DIRECT = 0.05  # of the answers are given without thinking


def _turn(rng: Random, problem: Problem, before: str) -> Turn:
    phrase = rng.choice(phrases(problem.form, held_out=False))
    prompt = phrase.fill(problem.slots, problem.context)
    thinking = rng.random() >= DIRECT
    learned = f"{problem.thinking}\n</think>\n\n" if thinking else ""
    return Turn(before + opening(prompt, thinking=thinking), f"{learned}{problem.answer}{EOS}")


def _trained(rng: Random, task: str) -> Problem:
    while True:
        problem = SHORT_TASKS[task](rng, TRAINED)
        if not is_held_out(problem):
            return problem


def short_example(rng: Random) -> list[Turn]:
    """One short problem; sometimes after an earlier exchange, of which the template keeps the
    answer and not the thinking."""
    before = BOS
    if rng.random() < 0.08:
        earlier = _trained(rng, rng.choice(tuple(SHORT_TASKS)))
        phrase = rng.choice(phrases(earlier.form, held_out=False))
        before += f"<｜User｜>{phrase.fill(earlier.slots)}<｜Assistant｜>{earlier.answer}{EOS}"
    (task,) = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))
    problem = _trained(rng, task)
    return [_turn(rng, problem, before)]


def lookup_example(rng: Random, tokens: int, questions: int) -> list[Turn]:
    """One context and several questions about it, in a conversation.

    Only the first question sees what a held-out item shows; the others make more of the context,
    whose reading is what costs.
    """
    while True:
        problem = lookup(rng, tokens, questions)
        asked = (problem, *problem.more)
        if not any(is_held_out(question) for question in asked):
            break
    turns = [_turn(rng, problem, BOS)]
    turns += [_turn(rng, question, "") for question in problem.more]
    return turns
