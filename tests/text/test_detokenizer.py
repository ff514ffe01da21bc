"""TextStream and AnswerStream: any split of the ids gives the text of decoding them all, cut at a
stop string in the content."""

from __future__ import annotations

import random
import time

import pytest

from tests.text.vocabularies import byte_level, sentencepiece, tokenizer
from tribody.core.request import Thinking
from tribody.text.answer_stream import AnswerStream
from tribody.text.detokenizer import TextStream
from tribody.text.reasoning import Part
from tribody.text.stop_strings import StopMatcher
from tribody.text.tokenizer import Tokenizer

SEED = 20240611
ALPHABET = [
    "你",
    "好",
    "👩",
    "\u200d",
    "👧",
    "e",
    "\u0301",
    "S",
    "T",
    "O",
    "P",
    " ",
    "\n",
    "the",
    "停",
]
STOPS = [
    "STOP",
    "ST",
    "TO",
    "OPS",
    "\n\n",
    "停",
    "你好",
    "👩\u200d👧",
    "e\u0301",
    "好停",
    "SSST",
    "the e",
]


@pytest.fixture(scope="module")
def subject() -> Tokenizer:
    return tokenizer(byte_level())


def cut_once(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The definition, by brute force: the match that ends first, of those the longest."""
    for end in range(1, len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            longest = max(matching, key=len)
            return text[: end - len(longest)], longest
    return text, None


def joined(parts: list[tuple[Part, str]]) -> str:
    return "".join(text for _, text in parts)


def split(ids: list[int], draw: random.Random) -> list[list[int]]:
    parts = []
    while ids:
        size = draw.randint(1, 4)
        parts.append(ids[:size])
        ids = ids[size:]
    return parts


def test_any_split_gives_the_whole_text(subject: Tokenizer) -> None:
    """10,000 random texts, damaged bytes among them, random splits and stop strings."""
    draw = random.Random(SEED)
    for case in range(10_000):
        content = "".join(draw.choices(ALPHABET, k=draw.randint(0, 14))).encode()
        if draw.random() < 0.3:  # any bytes: not always UTF-8
            place = draw.randint(0, len(content))
            content = content[:place] + draw.randbytes(draw.randint(1, 3)) + content[place:]
        ids = tokenize_bytes(subject, content, draw)
        stops = tuple(draw.sample(STOPS, draw.randint(0, 3)))
        text, stop_string = cut_once(content.decode("utf-8", errors="replace"), stops)
        stream = AnswerStream(subject, stops)
        pieces = [joined(stream.push(part)) for part in split(ids, draw)]
        pieces.append(joined(stream.finish()))
        assert "".join(pieces) == text, (SEED, case)
        assert stream.stop_string == stop_string, (SEED, case)
        assert stream.stopped is (stop_string is not None)
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def tokenize_bytes(subject: Tokenizer, content: bytes, draw: random.Random) -> list[int]:
    """A random way to write bytes as tokens, skipped control tokens in between."""
    by_bytes = {subject.token_bytes(index): index for index in range(subject.vocab_size - 4)}
    ids = []
    place = 0
    while place < len(content):
        fitting = [size for size in range(1, 7) if content[place : place + size] in by_bytes]
        size = draw.choice(fitting)
        ids.append(by_bytes[content[place : place + size]])
        place += size
        if draw.random() < 0.05:
            ids.append(subject.vocab_size - 3)
    return ids


def test_holds_back_no_more_than_needed(subject: Tokenizer) -> None:
    """After each character, what is held is a beginning of a stop string, and the longest."""
    draw = random.Random(SEED)
    for _ in range(500):
        text = "".join(draw.choices("STOP \n", k=20))
        stops = ("STOP", "\n\n", "TOPS")
        stream = AnswerStream(subject, stops)
        shown = ""
        for index, character in enumerate(text):
            shown += joined(stream.push(subject.encode(character, add_special_tokens=False)))
            if stream.stopped:
                break
            seen = text[: index + 1]
            held = max(
                size for stop in stops for size in range(len(stop)) if seen.endswith(stop[:size])
            )
            assert shown == seen[: len(seen) - held]


def test_half_characters_wait(subject: Tokenizer) -> None:
    stream = TextStream(subject)
    family = "👩‍👧".encode()
    shown = [stream.push([byte]) for byte in family]
    assert [piece for piece in shown if piece] == ["👩", "\u200d", "👧"]
    assert stream.push([0xE4]) == ""
    assert stream.finish() == "\ufffd"


def test_byte_fallback_tokens_join() -> None:
    subject = tokenizer(sentencepiece())
    ids = subject.encode("ab 好abc👩", add_special_tokens=False)
    stream = TextStream(subject)
    text = "".join(stream.push([token_id]) for token_id in ids) + stream.finish()
    assert text == " ab 好abc👩"  # it continues a prompt, so the first space stays


def test_special_tokens(subject: Tokenizer) -> None:
    ids = subject.encode("a<|im_end|>b<think>", add_special_tokens=False)
    hidden, shown = TextStream(subject), TextStream(subject, skip_special_tokens=False)
    assert hidden.push(ids) == "ab<think>"
    assert shown.push(ids) == "a<|im_end|>b<think>"


def test_a_stop_string_may_end_in_the_last_flush(subject: Tokenizer) -> None:
    stream = AnswerStream(subject, ("x\ufffd",))
    assert joined(stream.push([ord("a"), ord("x"), 0xE4])) == "a"
    assert stream.finish() == []
    assert stream.stopped


def test_nothing_follows_a_stop(subject: Tokenizer) -> None:
    stream = AnswerStream(subject, ("STOP",))
    ids = subject.encode("goSTOPped", add_special_tokens=False)
    assert stream.push(ids) == [("content", "go")]
    assert (stream.push(ids), stream.finish(), stream.stopped) == ([], [], True)


@pytest.mark.parametrize("thinking", ["open", "may"])
def test_stop_strings_count_in_the_content_only(subject: Tokenizer, thinking: Thinking) -> None:
    """A model that thought of a stop string was cut off in the middle of its thinking."""
    text = "I must not say STOP</think>go STO STOP on"
    ids = subject.encode("<think>" * (thinking == "may") + text, add_special_tokens=False)
    stream = AnswerStream(subject, ("STOP",), thinking)
    parts = [part for token_id in ids for part in stream.push([token_id])] + stream.finish()
    assert joined([p for p in parts if p[0] == "reasoning"]) == "I must not say STOP"
    assert joined([p for p in parts if p[0] == "content"]) == "go STO "
    assert stream.stopped


def test_an_empty_stop_string_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        StopMatcher(("",))


def test_time_is_linear(subject: Tokenizer) -> None:
    """Four times the tokens take about four times as long, whatever is held back."""
    stops = ("a" * 5000 + "b", "ab" * 2000)

    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            stream = AnswerStream(subject, stops)
            started = time.perf_counter()
            for _ in range(count):
                stream.push([ord("a")])
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds(40_000) < 12 * seconds(10_000)
