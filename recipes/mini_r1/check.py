"""Is a chain of thought right?  Verifies one from the question's text, step by step.

It knows nothing of how problems are drawn: it reads numbers, strings and statements out of the
prompt and redoes every line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

_NUMBER = re.compile(r"\d+")
_QUOTED = re.compile(r'"([^"]*)"')


def verify(task: str, prompt: str, thinking: str, answer: str) -> bool:
    """True if every step of `thinking` holds, fits the question, and gives `answer`."""
    try:
        return _CHECKS[task](prompt, thinking.split("\n"), answer)
    except (IndexError, ValueError, KeyError, AttributeError):
        return False  # a line that is not of the expected form


def _operands(prompt: str) -> tuple[int, int]:
    a, b = (int(number) for number in _NUMBER.findall(prompt))
    return (b, a) if "ubtract" in prompt and "from" in prompt else (a, b)


def _sum(prompt: str, lines: list[str], answer: str) -> bool:
    """Padded operands, then columns from the ones, with a carry."""
    a, b = _operands(prompt)
    columns = max(len(str(a)), len(str(b)))
    expected, carried = [f"{a:0{columns}}+{b:0{columns}}"], 0
    for column in range(columns):
        x, y = a // 10**column % 10, b // 10**column % 10
        expected.append(f"{x}+{y}+{carried}={x + y + carried}")
        carried = (x + y + carried) // 10
    return lines == expected and answer == str(a + b)


def _difference(prompt: str, lines: list[str], answer: str) -> bool:
    """Padded operands, then columns from the ones; one below zero is ten more, and borrows."""
    a, b = _operands(prompt)
    columns = len(str(a))
    expected, borrowed = [f"{a}-{b:0{columns}}"], 0
    for column in range(columns):
        x, y = a // 10**column % 10, b // 10**column % 10
        result = x - y - borrowed
        more = f",{result + 10}" if result < 0 else ""
        expected.append(f"{x}-{y}-{borrowed}={result}{more}")
        borrowed = int(result < 0)
    return lines == expected and answer == str(a - b)


def _product(prompt: str, lines: list[str], answer: str) -> bool:
    a, b = _operands(prompt)
    expected, carried = [f"{a}*{b}"], 0
    for column in range(len(str(a))):
        x = a // 10**column % 10
        total = x * b + carried
        expected.append(f"{x}*{b}={x * b}+{carried}={total}")
        carried = total // 10
    return lines == expected and answer == str(a * b)


def _relation(a: int, b: int) -> str:
    return "<=>"[(a > b) - (a < b) + 1]


def _compare(prompt: str, lines: list[str], answer: str) -> bool:
    numbers = [int(number) for number in _NUMBER.findall(prompt)]
    largest = any(word in prompt for word in ("larg", "great", "大"))
    best, wanted = (max, ">") if largest else (min, "<")
    if len(numbers) > 2:
        expected = [f"{wanted}{numbers[0]:02}"]
        for i, number in enumerate(numbers[1:], 1):
            before = best(numbers[:i])
            relation = _relation(number, before)
            expected.append(f"{number:02},{before:02}{relation}:{best(before, number):02}")
    else:
        a, b = numbers
        columns = len(str(max(numbers)))
        expected = [f"{a:0{columns}},{b:0{columns}}:{wanted}"]
        for column in reversed(range(columns)):
            x, y = a // 10**column % 10, b // 10**column % 10
            expected.append(f"{x}{y}{_relation(x, y)}")
            if x != y:
                break
    return lines == expected and answer == str(best(numbers))


def _sort(prompt: str, lines: list[str], answer: str) -> bool:
    left = [int(number) for number in _NUMBER.findall(prompt)]
    falling = any(word in prompt for word in ("to small", "descending", "从大到小", "降序"))
    whole = sorted(left, reverse=falling)
    for line, chosen in zip(lines, whole, strict=True):
        written = ",".join(f"{number:02}" for number in left)
        if line != f"{written}{'>' if falling else '<'}{chosen:02}":
            return False
        left.remove(chosen)
    return answer == ", ".join(map(str, whole))


def _count(prompt: str, lines: list[str], answer: str) -> bool:
    first, second = _QUOTED.findall(prompt)
    letter, word = sorted((first, second), key=len)
    (line,) = lines
    seen = [f"{i}{c}{letter}{word[:i].count(letter)}" for i, c in enumerate(word, 1)]
    return line == ",".join(seen) and answer == str(word.count(letter))


def _reverse(prompt: str, lines: list[str], answer: str) -> bool:
    (word,) = _QUOTED.findall(prompt)
    numbered = [f"{i}{c}" for i, c in enumerate(word, 1)]
    return lines == ["".join(numbered), "".join(numbered[::-1])] and answer == word[::-1]


def _slice(prompt: str, lines: list[str], answer: str) -> bool:
    (word,) = _QUOTED.findall(prompt)
    python = re.search(r"\[(\d+):(\d+)\]", prompt)
    numbers = [int(number) for number in _NUMBER.findall(prompt)]
    last = "last" in prompt or "后" in prompt
    if python:
        base, start, stop = 0, *numbers
    elif len(numbers) == 2:
        base, start, stop = 1, numbers[0] - 1, numbers[1]
    elif last:
        base, start, stop = 1, len(word) - numbers[0], len(word)
    else:
        base, start, stop = 1, 0, numbers[0]
    numbered = [f"{i}{c}" for i, c in enumerate(word, base)]
    if last:
        numbered = [f"{len(word) - i}{c}" for i, c in enumerate(word)]
    expected = ["".join(numbered), "".join(numbered[start:stop])]
    return lines == expected and answer == word[start:stop]


_ASSIGNMENT = re.compile(r"\b([a-z]) = (?:(\d+)|([a-z]) ([-+]) (\d+))")


def _trace(prompt: str, lines: list[str], answer: str) -> bool:
    values: dict[str, int] = {}
    expected = []
    for target, number, source, sign, step in _ASSIGNMENT.findall(prompt):
        if number:
            values[target] = int(number)
            expected.append(f"{target}={number}")
            continue
        before = values[source]
        values[target] = before + int(step) if sign == "+" else before - int(step)
        expected.append(f"{target}:{source}={before}{sign}{step},{target}={values[target]}")
    rest = _ASSIGNMENT.sub("", prompt)
    asked = re.findall(r"(?<![A-Za-z])([a-z])(?![A-Za-z])", rest)
    (name,) = asked
    expected.append(f"{name}={values[name]}")
    return lines == expected and answer == str(values[name])


def _call(prompt: str, lines: list[str], answer: str) -> bool:
    name = next(text for text in _QUOTED.findall(prompt) if "_" in text)
    pairs = re.findall(r'"([a-z]+)" = (\d+|"[a-z]+")', prompt)
    given = json.loads(answer)
    arguments = {key: json.loads(value) for key, value in pairs}
    expected = [f'"{name}"'] + [f"{key}={value}" for key, value in pairs]
    return lines == expected and given == {"name": name, "arguments": arguments}


def _lookup(prompt: str, lines: list[str], answer: str, hops: int) -> bool:
    start, end = prompt.index("{"), prompt.index("}") + 1
    table = json.loads(prompt[start:end])
    (name,) = _QUOTED.findall(prompt[end:])
    expected = []
    for _ in range(hops):
        expected.append(f'"{name}": "{table[name]}"')
        name = table[name]
    return lines == expected and answer == name


_CHECKS: dict[str, Callable[[str, list[str], str], bool]] = {
    "add": _sum,
    "subtract": _difference,
    "multiply": _product,
    "compare": _compare,
    "sort": _sort,
    "count": _count,
    "reverse": _reverse,
    "slice": _slice,
    "trace": _trace,
    "call": _call,
    "lookup": partial(_lookup, hops=1),
    "lookup two hops": partial(_lookup, hops=2),
}
