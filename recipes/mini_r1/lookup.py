"""Looking up keys in a JSON object that stands among distractors, in one hop or two."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from random import Random

from recipes.mini_r1.problems import Problem, Ranges

# Sentences that say nothing about any key.
FILLER = (
    "The meeting starts in the morning.",
    "Rain is likely near the river today.",
    "All orders of last week were sent.",
    "Please keep this note for later.",
    "The office is closed on Sunday.",
    "A new version is ready for the test.",
    "Nobody has seen the old report.",
    "The train to the north was late again.",
    "Prices may change without notice.",
    "Our team works on a small model.",
    "Some users asked for a faster answer.",
    "The server was moved to another room.",
    "会议在早上开始。",
    "今天河边可能下雨。",
    "上周的订单都已发出。",
    "请保留这份说明。",
    "办公室星期日休息。",
    "新版本可以测试了。",
    "价格可能变化。",
    "服务器搬到了另一个房间。",
)
TOKENS_PER_ENTRY = 8  # `"abc": "x4y", ` is a b c `": "` x 4 y `", "`


def _name(rng: Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(3))


def _value(rng: Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase + string.digits * 3) for _ in range(3))


def lookup(rng: Random, tokens: int, questions: int = 1, hops: int | None = None) -> Problem:
    """A context of about `tokens` tokens and `questions` questions about it.

    A third of the entries point to another entry: their value is its key.  `hops` fixes the first
    question's kind, 1 or 2; the others are drawn.
    """
    room = max(tokens - 30, 3 * TOKENS_PER_ENTRY)
    share = rng.uniform(0.6, 1.0) if room > 100 else 1.0
    entries = max(3, int(room * share / TOKENS_PER_ENTRY))
    names: list[str] = []
    while len(names) < entries:
        name = _name(rng)
        if name not in names:
            names.append(name)
    table = {name: _value(rng) for name in names}
    shuffled = rng.sample(names, entries)
    pointers = shuffled[: max(1, entries // 3)]
    ends = shuffled[len(pointers) :]
    for name in pointers:
        table[name] = rng.choice(ends)
    sentences = _filler(rng, room - entries * TOKENS_PER_ENTRY)
    before = rng.randint(0, len(sentences))
    context = " ".join([*sentences[:before], json.dumps(table), *sentences[before:]])
    asked = []
    for index in range(questions):
        kind = hops if hops and index == 0 else rng.choice((1, 2))
        name = rng.choice(pointers) if kind == 2 else rng.choice(names)
        asked.append(_question(context, table, name, kind))
    return replace(asked[0], context=context, more=tuple(asked[1:]))


def _filler(rng: Random, tokens: int) -> list[str]:
    """Sentences of about `tokens` tokens: a Chinese one is 3, an English one a token a word."""
    sentences = []
    while tokens > 0:
        sentence = rng.choice(FILLER)
        sentences.append(sentence)
        tokens -= len(sentence.split()) + 1 if sentence.isascii() else 3
    return sentences


def _question(context: str, table: dict[str, str], name: str, hops: int) -> Problem:
    thinking, answer = f'"{name}": "{table[name]}"', table[name]
    if hops == 2:
        thinking += f'\n"{answer}": "{table[answer]}"'
        answer = table[answer]
    task = "lookup" if hops == 1 else "lookup two hops"
    return Problem(task, task, f"{task} {name} in {context}", {"name": name}, thinking, answer)


def draw_length(rng: Random, ranges: Ranges) -> int:
    """A length in tokens, uniform in its logarithm: short ones are as frequent as long ones."""
    low, high = ranges.lookup_tokens
    stretched: float = low * (high / low) ** rng.random()
    return round(stretched)
