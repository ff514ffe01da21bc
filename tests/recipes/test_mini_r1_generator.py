"""mini-r1's problems: every chain of thought is verified, and what is held out stays out."""

import json
from random import Random

import pytest

from recipes.mini_r1 import tokenizer as mini_tokenizer
from recipes.mini_r1.check import verify
from recipes.mini_r1.generate import (
    TASKS,
    draw_held_out,
    held_out,
    held_out_lookups,
    is_held_out,
    lookup_example,
    short_example,
)
from recipes.mini_r1.lookup import lookup
from recipes.mini_r1.phrases import CORES, phrases
from recipes.mini_r1.problems import LONGER, SHORT_TASKS, TRAINED


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["held_out", "longer"])
def test_the_checker_redoes_every_chain_of_thought(task: str, split: str) -> None:
    rng = Random(f"{task} {split}")
    for _ in range(60):
        item = draw_held_out(rng, task, split)
        assert verify(task, item.prompt, item.thinking, item.answer), item


@pytest.mark.parametrize("task", TASKS)
def test_the_checker_refuses_what_is_wrong(task: str) -> None:
    """One digit or letter changed anywhere in the thinking, or in the answer."""
    rng = Random(task)
    for _ in range(40):
        item = draw_held_out(rng, task, "held_out")
        places = [i for i, c in enumerate(item.thinking) if c.isascii() and c.isalnum()]
        place = rng.choice(places)
        other = rng.choice("0123456789".replace(item.thinking[place], ""))
        thinking = item.thinking[:place] + other + item.thinking[place + 1 :]
        assert not verify(task, item.prompt, thinking, item.answer), (item, thinking)
        assert not verify(task, item.prompt, item.thinking, item.answer + "0")
        assert not verify(task, item.prompt, item.thinking + "\n", item.answer)


def test_the_same_seed_draws_the_same_items() -> None:
    assert list(held_out(3, 5, "held_out")) == list(held_out(3, 5, "held_out"))
    assert list(held_out(3, 5, "held_out")) != list(held_out(4, 5, "held_out"))


def test_held_out_prompts_differ() -> None:
    prompts = [item.prompt for item in held_out(1, 50, "held_out")]
    assert len(set(prompts)) == len(prompts) == 50 * len(TASKS)


@pytest.mark.parametrize("form", CORES)
def test_a_phrase_is_trained_or_held_out(form: str) -> None:
    trained = set(phrases(form, held_out=False))
    kept = set(phrases(form, held_out=True))
    assert kept
    assert not trained & kept
    assert {phrase.language for phrase in kept} == {"en", "zh"}
    assert 0.03 < len(kept) / (len(kept) + len(trained)) < 0.25


def test_nothing_held_out_is_ever_trained(monkeypatch) -> None:
    """Every problem that reaches a training example, and every wording of one, is looked at."""
    from recipes.mini_r1 import generate

    asked = []

    def watched(form: str, *, held_out: bool):
        assert not held_out
        return phrases(form, held_out=held_out)

    real = generate._turn

    def turn(rng, problem, before):
        asked.append(problem)
        return real(rng, problem, before)

    monkeypatch.setattr(generate, "phrases", watched)
    monkeypatch.setattr(generate, "_turn", turn)
    rng = Random(9)
    for _ in range(1500):
        short_example(rng)
    for _ in range(60):
        lookup_example(rng, 200, 6)
    assert len(asked) == 1500 + 360
    assert not any(is_held_out(problem) for problem in asked)


def test_a_tenth_of_the_instances_is_held_out() -> None:
    rng = Random(2)
    for draw in SHORT_TASKS.values():
        share = sum(is_held_out(draw(rng, TRAINED)) for _ in range(500)) / 500
        assert 0.03 < share < 0.25


def test_longer_is_longer() -> None:
    for name, (_, high) in vars(TRAINED).items():
        assert getattr(LONGER, name)[0] > high, name


def test_sixteen_keys_fit_in_512_tokens_and_lengths_are_met(trained_tokenizer) -> None:
    for tokens in (128, 512, 1024):
        for item in held_out_lookups(1, 5, tokens):
            length = len(trained_tokenizer.encode(item.prompt).ids)
            assert 0.9 * tokens - 20 < length < 1.1 * tokens + 20
            table = json.loads(item.prompt[item.prompt.index("{") : item.prompt.index("}") + 1])
            assert len(table) >= {128: 5, 512: 16, 1024: 40}[tokens]


def test_two_hops_end_at_a_value() -> None:
    rng = Random(1)
    for _ in range(50):
        problem = lookup(rng, 300, hops=2)
        table = json.loads(
            problem.context[problem.context.index("{") : problem.context.index("}") + 1]
        )
        assert table[table[problem.slots["name"]]] == problem.answer
        assert problem.answer not in table


@pytest.fixture(scope="module")
def trained_tokenizer():
    rng = Random(0)
    texts = [short_example(rng)[0].read for _ in range(1500)]
    texts += [lookup_example(rng, 300, 1)[0].read for _ in range(100)]
    plain = []
    for text in texts:
        for control in mini_tokenizer.SPECIAL:
            text = text.replace(control, "\n")
        plain.append(text)
    return mini_tokenizer.train(plain, 1024)


def test_the_tokenizer_sees_digits_and_letters(trained_tokenizer) -> None:
    tokens = trained_tokenizer.encode('What is 417 in "strawberry"?').tokens
    assert tokens[:2] == ["What", "Ġis"]
    assert tokens[3:6] == ["4", "1", "7"]
    letters = tokens[tokens.index("s") : tokens.index("y") + 1]
    assert letters == list("strawberry")


def test_the_tokenizer_is_byte_level_and_keeps_control_tokens(trained_tokenizer) -> None:
    assert trained_tokenizer.get_vocab_size() <= 2048
    for index, control in enumerate(mini_tokenizer.SPECIAL):
        assert trained_tokenizer.token_to_id(control) == index
    text = "<｜User｜>héllo ünïcode 你好，世界 \U0001f600\t\n{}"
    ids = trained_tokenizer.encode(text, add_special_tokens=False).ids
    assert trained_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_decoding_keeps_the_marks_of_thinking(trained_tokenizer) -> None:
    ids = trained_tokenizer.encode("<｜User｜><think>\n1</think>2", add_special_tokens=False).ids
    assert trained_tokenizer.decode(ids, skip_special_tokens=True) == "<think>\n1</think>2"
