"""Ways to ask, in English and Chinese: an opener, a core and a closer, freely combined.

A tenth of the combinations, chosen by hash, is never trained on (`held_out`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import product

OPENERS = {
    "en": (
        "",
        "Please help. ",
        "Question: ",
        "Hi! ",
        "Task: ",
        "Next one. ",
        "Hello, I need help. ",
    ),
    "zh": ("", "请问：", "问题：", "你好！", "任务：", "下一题。", "请帮我看一下。"),
}
CLOSERS = {
    "en": ("", " Thanks.", " Answer only.", " Think first.", " Give the result.", " Be careful."),
    "zh": ("", "谢谢。", "只给出答案。", "先想一想。", "请给出结果。", "请仔细。"),
}
CORES: dict[str, dict[str, tuple[str, ...]]] = {
    "add": {
        "en": (
            "{a} + {b}",
            "{a} + {b} = ?",
            "{a}+{b}=?",
            "What is {a} + {b}?",
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "Compute {a} + {b}.",
            "What is the sum of {a} and {b}?",
        ),
        "zh": (
            "{a} + {b}",
            "{a}+{b}=?",
            "{a} + {b} 等于多少？",
            "{a}加{b}等于多少？",
            "计算{a}+{b}。",
            "{a}与{b}的和是多少？",
        ),
    },
    "subtract": {
        "en": (
            "{a} - {b}",
            "{a} - {b} = ?",
            "{a}-{b}=?",
            "What is {a} - {b}?",
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "Compute {a} - {b}.",
            "What is the difference of {a} and {b}?",
        ),
        "zh": (
            "{a} - {b}",
            "{a}-{b}=?",
            "{a} - {b} 等于多少？",
            "{a}减{b}等于多少？",
            "计算{a}-{b}。",
            "{a}与{b}的差是多少？",
        ),
    },
    "multiply": {
        "en": (
            "{a} * {b}",
            "{a} * {b} = ?",
            "{a}*{b}=?",
            "{a} x {b}",
            "What is {a} * {b}?",
            "What is {a} times {b}?",
            "Multiply {a} by {b}.",
            "What is the product of {a} and {b}?",
        ),
        "zh": (
            "{a} * {b}",
            "{a}×{b}=?",
            "{a} × {b} 等于多少？",
            "{a}乘以{b}等于多少？",
            "计算{a}*{b}。",
            "{a}与{b}的积是多少？",
        ),
    },
    "larger": {
        "en": (
            "Which is larger, {a} or {b}?",
            "Which number is greater: {a} or {b}?",
            "Give the larger of {a} and {b}.",
            "Compare {a} and {b}: which one is larger?",
        ),
        "zh": ("{a}和{b}哪个大？", "比较{a}和{b}，哪个更大？", "给出{a}与{b}中较大的数。"),
    },
    "smaller": {
        "en": (
            "Which is smaller, {a} or {b}?",
            "Which number is less: {a} or {b}?",
            "Give the smaller of {a} and {b}.",
            "Compare {a} and {b}: which one is smaller?",
        ),
        "zh": ("{a}和{b}哪个小？", "比较{a}和{b}，哪个更小？", "给出{a}与{b}中较小的数。"),
    },
    "largest": {
        "en": (
            "What is the largest of {list}?",
            "Find the largest number: {list}",
            "Which number is the largest in [{list}]?",
        ),
        "zh": ("{list} 中最大的数是多少？", "找出最大的数：{list}", "[{list}] 中哪个数最大？"),
    },
    "smallest": {
        "en": (
            "What is the smallest of {list}?",
            "Find the smallest number: {list}",
            "Which number is the smallest in [{list}]?",
        ),
        "zh": ("{list} 中最小的数是多少？", "找出最小的数：{list}", "[{list}] 中哪个数最小？"),
    },
    "sort rising": {
        "en": (
            "Sort {list}.",
            "Sort these numbers from small to large: {list}",
            "Put [{list}] in ascending order.",
            "Sort in ascending order: {list}",
        ),
        "zh": ("把 {list} 从小到大排序。", "从小到大排列：{list}", "将 [{list}] 按升序排列。"),
    },
    "sort falling": {
        "en": (
            "Sort these numbers from large to small: {list}",
            "Put [{list}] in descending order.",
            "Sort in descending order: {list}",
        ),
        "zh": ("把 {list} 从大到小排序。", "从大到小排列：{list}", "将 [{list}] 按降序排列。"),
    },
    "count": {
        "en": (
            'How many "{letter}" are in "{word}"?',
            'How many times does "{letter}" occur in "{word}"?',
            'Count the letter "{letter}" in "{word}".',
            'How often is the letter "{letter}" in the word "{word}"?',
        ),
        "zh": (
            '"{word}" 中有几个 "{letter}"？',
            '字母 "{letter}" 在 "{word}" 中出现几次？',
            '数一数 "{word}" 里的 "{letter}"。',
        ),
    },
    "reverse": {
        "en": (
            'Reverse "{word}".',
            'Write "{word}" backwards.',
            'What is "{word}" in reverse order?',
            'Reverse the string "{word}".',
        ),
        "zh": ('把 "{word}" 倒过来。', '反转字符串 "{word}"。', '"{word}" 倒着写是什么？'),
    },
    "slice": {
        "en": (
            'What are characters {i} to {j} of "{word}"?',
            'Give the letters from {i} to {j} in "{word}".',
            'Take characters {i} to {j} of the string "{word}".',
        ),
        "zh": (
            '"{word}" 的第 {i} 到第 {j} 个字符是什么？',
            '取 "{word}" 的第 {i} 到 {j} 个字符。',
        ),
    },
    "slice first": {
        "en": (
            'What are the first {n} letters of "{word}"?',
            'Give the first {n} characters of "{word}".',
        ),
        "zh": ('"{word}" 的前 {n} 个字符是什么？', '取 "{word}" 的前 {n} 个字母。'),
    },
    "slice last": {
        "en": (
            'What are the last {n} letters of "{word}"?',
            'Give the last {n} characters of "{word}".',
        ),
        "zh": ('"{word}" 的后 {n} 个字符是什么？', '取 "{word}" 的后 {n} 个字母。'),
    },
    "slice python": {
        "en": (
            'What is "{word}"[{i}:{j}]?',
            'What is "{word}"[{i}:{j}] in Python?',
            'Compute "{word}"[{i}:{j}].',
        ),
        "zh": ('"{word}"[{i}:{j}] 是什么？', '计算 "{word}"[{i}:{j}]。'),
    },
    "trace": {
        "en": (
            "{program}\nWhat is {name}?",
            "Run this program: {program}\nWhat is the value of {name}?",
            "Given {program}\nFind {name}.",
            "What is {name} at the end?\n{program}",
        ),
        "zh": (
            "{program}\n{name} 是多少？",
            "运行程序：{program}\n{name} 的值是多少？",
            "已知 {program}\n求 {name}。",
        ),
    },
    "call": {
        "en": (
            'Call "{function}" with {pairs}.',
            'Write a call of "{function}" as JSON: {pairs}',
            'Use the function "{function}" with {pairs}.',
            'Give the JSON call of "{function}" with the arguments {pairs}.',
        ),
        "zh": (
            '调用 "{function}"，参数为 {pairs}。',
            '用 JSON 写出函数 "{function}" 的调用：{pairs}',
            '使用函数 "{function}"，参数 {pairs}。',
        ),
    },
    "lookup": {
        "en": (
            'What is the value of "{name}"?',
            'Find the key "{name}" and give its value.',
            'What is stored at "{name}"?',
            'Look up "{name}".',
        ),
        "zh": (
            '"{name}" 的值是什么？',
            '查找键 "{name}" 并给出它的值。',
            '"{name}" 对应什么？',
        ),
    },
    "lookup two hops": {
        "en": (
            'The value of "{name}" is a key. What is the value of that key?',
            'Look up "{name}", then look up the key that you found.',
            'Follow "{name}" for two steps. What do you find?',
        ),
        "zh": (
            '"{name}" 的值是另一个键，那个键的值是什么？',
            '先查 "{name}"，再查找到的键，给出它的值。',
        ),
    },
}


@dataclass(frozen=True)
class Phrase:
    """A way to ask, with slots to fill."""

    language: str
    opener: str
    core: str
    closer: str

    def fill(self, slots: dict[str, str], context: str = "") -> str:
        """The prompt.  A context stands before the question."""
        question = self.opener + self.core.format(**slots) + self.closer
        return f"{context}\n{question}" if context else question


@cache
def phrases(form: str, *, held_out: bool) -> tuple[Phrase, ...]:
    """All ways to ask a form that are, or are not, held out."""
    ways = [
        Phrase(language, opener, core, closer)
        for language, cores in CORES[form].items()
        for opener, core, closer in product(OPENERS[language], cores, CLOSERS[language])
    ]
    return tuple(way for way in ways if _is_held_out(form, way) == held_out)


def _is_held_out(form: str, way: Phrase) -> bool:
    # The bare question is what people type: it is always trained on.
    if not way.opener and not way.closer:
        return False
    text = "/".join((form, way.language, way.opener, way.core, way.closer))
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") % 10 == 0
