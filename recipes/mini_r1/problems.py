"""The problems that mini-r1 solves: what is asked, the chain of thought, and the answer.

A problem is drawn from a `random.Random`, so a seed fixes it.  The chain of thought is written
step by step with nothing left out, and `check.py` verifies one without knowing how it was made.
Sizes come from `Ranges`: what is trained on, and what the longer split asks.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

Span = tuple[int, int]  # both ends included


@dataclass(frozen=True)
class Ranges:
    """How large problems get."""

    sum_digits: Span = (1, 3)
    product_digits: Span = (1, 2)  # times one digit
    compare_digits: Span = (1, 3)
    list_length: Span = (3, 5)
    count_length: Span = (3, 8)
    string_length: Span = (3, 7)
    statements: Span = (2, 4)
    arguments: Span = (1, 3)
    lookup_tokens: Span = (48, 1024)  # of the whole prompt, about


TRAINED = Ranges()
LONGER = Ranges(
    sum_digits=(4, 4),
    product_digits=(3, 3),
    compare_digits=(4, 4),
    list_length=(6, 7),
    count_length=(9, 11),
    string_length=(8, 9),
    statements=(5, 6),
    arguments=(4, 4),
    lookup_tokens=(1100, 2000),
)


@dataclass(frozen=True)
class Problem:
    """`values` names the instance (equal problems, equal text), `slots` fill a phrase of `form`."""

    task: str
    form: str
    values: str
    slots: dict[str, str]
    thinking: str
    answer: str
    context: str = ""  # what a question is about, placed before or after it
    more: tuple[Problem, ...] = field(default=())  # further questions about the same context


def _number(rng: Random, digits: Span) -> int:
    """A number whose count of digits is uniform over the span."""
    count = rng.randint(*digits)
    return rng.randint(10 ** (count - 1) if count > 1 else 0, 10**count - 1)


def _padded(a: int, b: int) -> tuple[str, str]:
    """Both with as many digits as the longer, zeros in front."""
    columns = max(len(str(a)), len(str(b)))
    return str(a).zfill(columns), str(b).zfill(columns)


def add(rng: Random, ranges: Ranges) -> Problem:
    """Padded, then column by column from the ones: digit + digit + carry."""
    a, b = _number(rng, ranges.sum_digits), _number(rng, ranges.sum_digits)
    x, y = _padded(a, b)
    lines, carry = [f"{x}+{y}"], 0
    for p, q in zip(map(int, reversed(x)), map(int, reversed(y)), strict=True):
        lines.append(f"{p}+{q}+{carry}={p + q + carry}")
        carry = (p + q + carry) // 10
    slots = {"a": str(a), "b": str(b)}
    return Problem("add", "add", f"{a}+{b}", slots, "\n".join(lines), str(a + b))


def subtract(rng: Random, ranges: Ranges) -> Problem:
    """Like `add`; a column below zero, as in `2-5-0=-3,7`, borrows from the next."""
    a, b = _number(rng, ranges.sum_digits), _number(rng, ranges.sum_digits)
    a, b = max(a, b), min(a, b)
    x, y = _padded(a, b)
    lines, borrow = [f"{x}-{y}"], 0
    for p, q in zip(map(int, reversed(x)), map(int, reversed(y)), strict=True):
        result = p - q - borrow
        lines.append(f"{p}-{q}-{borrow}={result}" + (f",{result + 10}" if result < 0 else ""))
        borrow = int(result < 0)
    slots = {"a": str(a), "b": str(b)}
    return Problem("subtract", "subtract", f"{a}-{b}", slots, "\n".join(lines), str(a - b))


def multiply(rng: Random, ranges: Ranges) -> Problem:
    """Digit by digit from the ones: the product, then the carry added."""
    a, b = _number(rng, ranges.product_digits), rng.randint(0, 9)
    lines, carry = [f"{a}*{b}"], 0
    for x in map(int, reversed(str(a))):
        lines.append(f"{x}*{b}={x * b}+{carry}={x * b + carry}")
        carry = (x * b + carry) // 10
    slots = {"a": str(a), "b": str(b)}
    return Problem("multiply", "multiply", f"{a}*{b}", slots, "\n".join(lines), str(a * b))


def _different(rng: Random, length: Span) -> list[int]:
    """Different numbers below 100."""
    return rng.sample(range(100), rng.randint(*length))


def compare(rng: Random, ranges: Ranges) -> Problem:
    """The larger or smaller of two numbers, digit by digit, or of a list, by a running best.

    The first line holds the relation that is wanted, `>` or `<`; a relation follows its two sides.
    """
    wanted = rng.choice("><")
    if rng.random() < 0.5:
        return _compare_list(_different(rng, ranges.list_length), wanted)
    a = b = _number(rng, ranges.compare_digits)
    while b == a:
        # Often numbers that agree in their first digits: others are too easy.
        b = a + rng.randint(-30, 30) if rng.random() < 0.5 else _number(rng, ranges.compare_digits)
        b = abs(b)
    x, y = _padded(a, b)
    lines = [f"{x},{y}:{wanted}"]
    for p, q in zip(x, y, strict=True):
        lines.append(f"{p}{q}{_relation(int(p), int(q))}")
        if p != q:
            break
    answer = a if _relation(a, b) == wanted else b
    form = "larger" if wanted == ">" else "smaller"
    slots = {"a": str(a), "b": str(b)}
    return Problem("compare", form, f"{form} {a},{b}", slots, "\n".join(lines), str(answer))


def _relation(a: int, b: int) -> str:
    return "=" if a == b else ">" if a > b else "<"


def _compare_list(numbers: list[int], wanted: str) -> Problem:
    """Two digits each, so that the tens can be compared first."""
    best = numbers[0]
    lines = [f"{wanted}{best:02}"]
    for number in numbers[1:]:
        relation = _relation(number, best)
        line = f"{number:02},{best:02}{relation}"
        best = number if relation == wanted else best
        lines.append(f"{line}:{best:02}")
    listed = ", ".join(map(str, numbers))
    form = "largest" if wanted == ">" else "smallest"
    slots = {"list": listed}
    return Problem("compare", form, f"{form} {listed}", slots, "\n".join(lines), str(best))


def sort(rng: Random, ranges: Ranges) -> Problem:
    """Selection: each line is what is left, two digits each, then `<` and the smallest of it.

    (Or `>` and the largest.)  With two digits the tens of the chosen one are decided first, then
    its ones among those with the same tens.
    """
    falling = rng.random() < 0.4
    left = _different(rng, ranges.list_length)
    listed = ", ".join(map(str, left))
    answer, lines = [], []
    while left:
        chosen = max(left) if falling else min(left)
        written = ",".join(f"{number:02}" for number in left)
        lines.append(f"{written}{'>' if falling else '<'}{chosen:02}")
        left.remove(chosen)
        answer.append(str(chosen))
    form = "sort falling" if falling else "sort rising"
    return Problem(
        "sort", form, f"{form} {listed}", {"list": listed}, "\n".join(lines), ", ".join(answer)
    )


_WORDS = (
    "apple banana cherry strawberry letter coffee river summer winter yellow window kitchen "
    "rabbit bottle pepper mirror hammer ladder planet rocket button ticket garden silver"
)
WORDS = _WORDS.split()


def _word(rng: Random, length: Span) -> str:
    """Random letters, from few different ones or from all."""
    letters = string.ascii_lowercase
    if rng.random() < 0.4:
        letters = "".join(rng.sample(letters, 4))
    return "".join(rng.choice(letters) for _ in range(rng.randint(*length)))


def _numbered(word: str, base: int = 1) -> list[str]:
    """`1a`, `2b`, ...: a place, and the character there."""
    return [f"{place}{character}" for place, character in enumerate(word, base)]


def count(rng: Random, ranges: Ranges) -> Problem:
    """Letter by letter: its place, the letter that is asked for, and how many were seen so far."""
    low, high = ranges.count_length
    fitting = [word for word in WORDS if low <= len(word) <= high]
    word = rng.choice(fitting) if fitting and rng.random() < 0.2 else _word(rng, (low, high))
    letter = rng.choice(word if rng.random() < 0.85 else string.ascii_lowercase)
    seen, steps = 0, []
    for character, numbered in zip(word, _numbered(word), strict=True):
        seen += character == letter
        steps.append(f"{numbered}{letter}{seen}")
    slots = {"word": word, "letter": letter}
    return Problem("count", "count", f"{letter} in {word}", slots, ",".join(steps), str(seen))


def reverse(rng: Random, ranges: Ranges) -> Problem:
    word = _word(rng, ranges.string_length)
    numbered = _numbered(word)
    thinking = "".join(numbered) + "\n" + "".join(reversed(numbered))
    return Problem("reverse", "reverse", word, {"word": word}, thinking, word[::-1])


def cut(rng: Random, ranges: Ranges) -> Problem:
    """A slice: characters i to j counted from one, the first or last n, or Python's [i:j]."""
    low, high = ranges.string_length
    word = _word(rng, (max(low, 4), high))
    length = len(word)
    form = rng.choice(("slice", "slice first", "slice last", "slice python"))
    start = rng.randint(0, length - 2)
    stop = rng.randint(start + 1, length)
    if form == "slice first":
        start, stop = 0, rng.randint(1, length - 1)
    elif form == "slice last":
        start, stop = rng.randint(1, length - 1), length
    base = 0 if form == "slice python" else 1
    numbered = _numbered(word, base)
    if form == "slice last":  # counted from the end
        numbered = [f"{length - place}{character}" for place, character in enumerate(word)]
    thinking = "".join(numbered) + "\n" + "".join(numbered[start:stop])
    slots = {"word": word, "i": str(start + base), "j": str(stop), "n": str(stop - start)}
    values = f"{form} {word}[{start}:{stop}]"
    return Problem("slice", form, values, slots, thinking, word[start:stop])


def trace(rng: Random, ranges: Ranges) -> Problem:
    """Assignments one after the other: the target, the source's value, and the target's value.

    `d = u - 3` is `d:u=20-3` and `d=17`; the last line is what was asked for.
    """
    names = rng.sample(string.ascii_lowercase, 6)
    values: dict[str, int] = {}
    program, steps = [], []
    for index in range(rng.randint(*ranges.statements)):
        # Some assign to a variable that has a value already.
        target = rng.choice(list(values)) if values and rng.random() < 0.25 else names[index]
        if not values or rng.random() < 0.2:
            values[target] = rng.randint(0, 20)
            program.append(f"{target} = {values[target]}")
            steps.append(f"{target}={values[target]}")
            continue
        source, step = rng.choice(list(values)), rng.randint(1, 9)
        before = values[source]
        sign = "-" if before >= step and rng.random() < 0.5 else "+"
        values[target] = before + step if sign == "+" else before - step
        program.append(f"{target} = {source} {sign} {step}")
        steps.append(f"{target}:{source}={before}{sign}{step},{target}={values[target]}")
    asked = target if rng.random() < 0.5 else rng.choice(list(values))
    steps.append(f"{asked}={values[asked]}")
    separator = rng.choice(("\n", "; "))
    slots = {"program": separator.join(program), "name": asked}
    key = "; ".join([*program, asked])
    return Problem("trace", "trace", key, slots, "\n".join(steps), str(values[asked]))


FUNCTIONS = [
    f"{verb}_{noun}"
    for verb in ("get", "set", "add", "find", "send", "open", "move", "list")
    for noun in ("user", "file", "item", "order", "mail", "time", "price", "note")
]
_ARGUMENTS = "id name size city day count text code level tag x y"
ARGUMENTS = _ARGUMENTS.split()


def call(rng: Random, ranges: Ranges) -> Problem:
    """A function call as the JSON object that DeepSeek's tools use: name and arguments."""
    name = rng.choice(FUNCTIONS)
    arguments: dict[str, int | str] = {
        argument: rng.randint(0, 99) if rng.random() < 0.5 else _word(rng, (2, 5))
        for argument in rng.sample(ARGUMENTS, rng.randint(*ranges.arguments))
    }
    pairs = [f'"{key}" = {json.dumps(value)}' for key, value in arguments.items()]
    answer = json.dumps({"name": name, "arguments": arguments})
    thinking = f'"{name}"' + "".join(
        f"\n{key}={json.dumps(value)}" for key, value in arguments.items()
    )
    slots = {"function": name, "pairs": ", ".join(pairs)}
    return Problem("call", "call", answer, slots, thinking, answer)


# How often a task is drawn in training: those that take longest to learn most often.
WEIGHTS = {
    "add": 0.8,
    "subtract": 1.0,
    "multiply": 0.7,
    "compare": 2.0,
    "sort": 3.0,
    "count": 0.8,
    "reverse": 0.5,
    "slice": 1.2,
    "trace": 1.5,
    "call": 0.7,
}
SHORT_TASKS: dict[str, Callable[[Random, Ranges], Problem]] = {
    "add": add,
    "subtract": subtract,
    "multiply": multiply,
    "compare": compare,
    "sort": sort,
    "count": count,
    "reverse": reverse,
    "slice": cut,
    "trace": trace,
    "call": call,
}
