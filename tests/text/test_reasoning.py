"""ReasoningSplitter: the same parts for every split, never both in one piece."""

from __future__ import annotations

import itertools
import random

import pytest

from tribody.text.reasoning import Part, ReasoningSplitter, close_thinking, prompt_opens_thinking

SEED = 20240612

CASES: list[tuple[bool, str, str, str]] = [
    # thinking?, output, reasoning, content
    (False, "plain", "", "plain"),
    (False, "\n\n plain", "", "\n\n plain"),
    (False, "", "", ""),
    (False, "  \n", "", "  \n"),
    (False, "<think>\nhm\n</think>\n\nyes\n", "hm\n", "yes\n"),
    (False, "\n <think>hm</think>yes", "hm", "yes"),
    (False, "a <think>b</think> c", "", "a <think>b</think> c"),
    (False, "<thin", "", "<thin"),
    (False, "<thinner", "", "<thinner"),
    (False, "<think>", "", ""),
    (False, "<think>cut off </thin", "cut off </thin", ""),
    (False, "<think></think>\n\nyes", "", "yes"),
    (False, "<think><think>a</think>b</think>c", "<think>a", "b</think>c"),
    (True, "hm\n</think>\n\nyes", "hm\n", "yes"),
    (True, "\nhm</think> yes", "hm", " yes"),
    (True, "hm </thi </think", "hm </thi </think", ""),
    (True, "</think>yes", "", "yes"),
    (True, "a</</think>b<think>c", "a</", "b<think>c"),
    (True, "想一想……</think>\n\n\n答案\n\n", "想一想……", "答案\n\n"),
    (True, "<think>x</think>y", "<think>x", "y"),
]


def run(thinking: bool, chunks: list[str]) -> list[tuple[Part, str]]:
    splitter = ReasoningSplitter(thinking=thinking)
    pieces = [piece for chunk in chunks for piece in splitter.push(chunk)]
    return pieces + splitter.finish()


def joined(pieces: list[tuple[Part, str]], part: Part) -> str:
    return "".join(text for kind, text in pieces if kind == part)


@pytest.mark.parametrize(("thinking", "output", "reasoning", "content"), CASES)
def test_every_split_gives_the_same_parts(
    thinking: bool, output: str, reasoning: str, content: str
) -> None:
    draw = random.Random(SEED)
    splits = [[output], list(output)]
    for _ in range(200):
        cuts = sorted(draw.choices(range(len(output) + 1), k=draw.randint(0, 5)))
        edges = [0, *cuts, len(output)]
        splits.append([output[a:b] for a, b in itertools.pairwise(edges)])
    for chunks in splits:
        pieces = run(thinking, chunks)
        assert joined(pieces, "reasoning") == reasoning, (SEED, chunks)
        assert joined(pieces, "content") == content, (SEED, chunks)
        kinds = [kind for kind, _ in pieces]
        assert kinds == sorted(kinds, key=["reasoning", "content"].index), "reasoning comes first"
        assert all(text for _, text in pieces), "no empty pieces"


def test_holds_back_only_a_possible_tag() -> None:
    splitter = ReasoningSplitter(thinking=True)
    assert splitter.push("abc</th") == [("reasoning", "abc")]
    assert splitter.push("e") == [("reasoning", "</the")]
    assert splitter.push("x</think>\n") == [("reasoning", "x")]
    assert splitter.push("\ny") == [("content", "y")]


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<｜User｜>hi<｜Assistant｜><think>\n", True),
        ("<｜User｜>hi<｜Assistant｜><think>", True),
        ("<｜User｜>hi<｜Assistant｜></think>", False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("what is <think>?", False),
        ("", False),
    ],
)
def test_prompt_opens_thinking(prompt: str, opens: bool) -> None:
    assert prompt_opens_thinking(prompt) is opens


def test_close_thinking() -> None:
    closed = "<｜Assistant｜><think>\n\n</think>\n\n"
    assert close_thinking("<｜Assistant｜><think>\n") == closed
    assert close_thinking("<｜Assistant｜><think>") == closed
    assert close_thinking(closed) == closed
    assert close_thinking("what is <think>?\n") == "what is <think>?\n"
    assert not prompt_opens_thinking(closed)
