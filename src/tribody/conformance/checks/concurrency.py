"""Many requests at once: nothing is mixed up, and too many are a 429 (contract 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tribody.conformance.chat_stream import ChatStream
from tribody.conformance.check import Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.target import Target
from tribody.conformance.verdict import Skipped, expect
from tribody.conformance.wire import Answer, EventStream

AT_ONCE = 12
BURST = 48

T = TypeVar("T")


def _together(run: Callable[[int], T], count: int) -> list[T]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def _served(answers: Iterable[Answer]) -> list[Answer]:
    found = list(answers)
    for answer in found:
        expect(answer.status in (200, 429, 503), "200, 429 or 503", answer.status)
    return [answer for answer in found if answer.status == 200]


def not_mixed(t: Target) -> None:
    """Each caller gets the answer to its own question."""

    def ask(number: int) -> Answer:
        return t.chat(t.prompts.say(f"number {number}"), temperature=0)

    answers = _together(ask, AT_ONCE)
    for number, answer in enumerate(answers):
        if _served([answer]):
            found = message(answer.ok()).at("content").text()
            t.obeyed(found.strip() == f"number {number}", f"number {number}", found)


def streams_not_mixed(t: Target) -> None:
    def ask(number: int) -> Answer:
        return t.chat(t.prompts.say(f"stream {number}"), temperature=0, stream=True)

    for number, answer in enumerate(_together(ask, AT_ONCE // 2)):
        if _served([answer]):
            content = ChatStream(EventStream.read(answer.body), answer).content.strip()
            t.obeyed(content == f"stream {number}", f"stream {number}", content)


def ids_differ(t: Target) -> None:
    answers = _served(_together(lambda _: t.chat(t.prompts.say("Yes.")), AT_ONCE))
    ids = {answer.ok().at("id").text() for answer in answers}
    expect(len(ids) == len(answers), "an id for every answer", f"{len(ids)} for {len(answers)}")


def same_as_alone(t: Target) -> None:
    """Batched with others, the answer to a question is what it is alone."""
    ask = t.prompts.count(16)
    alone = message(t.chat(ask, temperature=0, max_tokens=16).ok()).at("content").text()
    answers = _served(_together(lambda _: t.chat(ask, temperature=0, max_tokens=16), AT_ONCE // 2))
    texts = {message(answer.ok()).at("content").text() for answer in answers}
    expect(texts <= {alone}, f"{alone!r} from all of them", texts)


def _burst(t: Target) -> list[Answer]:
    def ask(_number: int) -> Answer:
        return t.chat(t.prompts.count(30), max_tokens=30)

    return t.keep("burst", lambda: _together(ask, BURST if t.scripted else AT_ONCE))


def burst(t: Target) -> None:
    expect(_served(_burst(t)), "some of a burst to be served", "none")


def retry_after(t: Target) -> None:
    refused = [answer for answer in _burst(t) if answer.status in (429, 503)]
    if not refused:
        raise Skipped(f"no limit was reached by {len(_burst(t))} requests at once")
    for answer in refused:
        found = answer.header("retry-after")
        expect(found.isdigit() or "GMT" in found, "Retry-After in seconds or a date", found)
        answer.json().at("error", "type").text()


def recovers(t: Target) -> None:
    _burst(t)
    t.chat(t.prompts.say("Yes.")).ok()


SECTION = Section(
    "concurrency",
    "Concurrency",
    (
        Check("concurrency.not-mixed", "each caller gets its own answer", not_mixed),
        Check("concurrency.streams", "so does each stream", streams_not_mixed),
        Check("concurrency.ids", "every answer has its own id", ids_differ),
        Check("concurrency.same-as-alone", "batched, the answer is what it is alone",
              same_as_alone),
        Check("concurrency.burst", "a burst is served or refused with 429", burst),
        Check("concurrency.retry-after", "a 429 says when to come back", retry_after),
        Check("concurrency.recovers", "after a burst there is room again", recovers),
    ),
)  # fmt: skip
