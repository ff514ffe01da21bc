"""POST /v1/completions, as OpenAI has it."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.checks.usage import check_usage
from tribody.conformance.target import Target
from tribody.conformance.verdict import expect, expect_equal
from tribody.conformance.wire import Answer, EventStream


def _complete(t: Target, prompt: object = "One, two,", **fields: object) -> Answer:
    body: dict[str, object] = {"model": t.model, "prompt": prompt, "max_tokens": 8,
                               "temperature": 0}  # fmt: skip
    return t.post(body | fields, t.path("completions"))


def shape(t: Target) -> None:
    answer = _complete(t).ok()
    answer.at("object").is_("text_completion")
    answer.at("id").text()
    answer.at("created").integer()
    answer.at("model").text()
    answer.at("choices", 0, "text").text()
    answer.at("choices", 0, "index").is_(0)
    answer.at("choices", 0, "finish_reason").one_of("stop", "length")


def usage(t: Target) -> None:
    check_usage(_complete(t).ok().at("usage"))


def several_prompts(t: Target) -> None:
    choices = _complete(t, ["One,", "Two,", "Three,"]).ok().at("choices").items()
    indexes = sorted(choice.at("index").integer() for choice in choices)
    expect_equal(indexes, [0, 1, 2], "the indexes of three prompts")


def several_choices(t: Target) -> None:
    answer = t.needs_200(_complete(t, n=2), "n=2").json()
    indexes = sorted(choice.at("index").integer() for choice in answer.at("choices").items())
    expect_equal(indexes, [0, 1], "the indexes of n=2")


def token_ids(t: Target) -> None:
    t.needs_200(_complete(t, [5, 6, 7]), "a prompt of token ids").json().at("choices", 0)


def echo(t: Target) -> None:
    text = t.needs_200(_complete(t, echo=True), "echo").json().at("choices", 0, "text").text()
    expect(text.startswith("One, two,"), "the prompt before the text", text)


def logprobs(t: Target) -> None:
    found = t.needs_200(_complete(t, logprobs=2), "logprobs").json().at("choices", 0, "logprobs")
    sizes = {len(found.at(name).items()) for name in ("tokens", "token_logprobs", "text_offset")}
    expect(len(sizes) == 1 and 0 not in sizes, "three lists of one length", sizes)
    for value in found.at("token_logprobs").items():
        expect(value.null or value.number() <= 0, "logprobs of at most 0", value.raw)


def stream(t: Target) -> None:
    events = EventStream.read(_complete(t, stream=True).expect_status(200).body)
    expect(events.events and events.events[-1].data == "[DONE]", "[DONE] at the end", "another")
    ids = {chunk.at("id").raw for chunk in events.payloads}
    expect(len(ids) == 1, "one id on all chunks", ids)
    text = "".join(
        str(choice.maybe("text").raw or "")
        for chunk in events.payloads
        for choice in chunk.at("choices").items()
    )
    expect_equal(text, _complete(t).ok().at("choices", 0, "text").raw, "the streamed text")


def stop(t: Target) -> None:
    whole = _complete(t).ok().at("choices", 0, "text").text()
    if len(whole) < 4:
        t.obeyed(False, "at least 4 characters to stop within", whole)
        return
    mark = whole[2:4]
    answer = _complete(t, stop=mark).ok()
    expect(mark not in answer.at("choices", 0, "text").text(), "no stop string", answer.raw)
    answer.at("choices", 0, "finish_reason").is_("stop")


def length(t: Target) -> None:
    answer = _complete(t, max_tokens=2).ok()
    used = answer.at("usage", "completion_tokens").integer()
    expect(used <= 2, "at most 2 completion tokens", used)


def _refused(fields: dict[str, object], t: Target) -> None:
    answer = _complete(t, **fields)
    expect(answer.status in (400, 422), f"400 or 422 for {fields!r}"[:120], answer.status)


SECTION = Section(
    "completions",
    "Completions",
    tuple(
        Check(f"completions.{name}", title, run, ("completions",))
        for name, title, run in (
            ("shape", "a text_completion", shape),
            ("usage", "usage obeys the sums", usage),
            ("prompts", "a list of prompts gives a choice each", several_prompts),
            ("n", "n=2 gives two choices", several_choices),
            ("token-ids", "a prompt may be token ids", token_ids),
            ("echo", "echo puts the prompt before the text", echo),
            ("logprobs", "logprobs: lists of one length", logprobs),
            ("stream", "streamed: the same text, one id, [DONE]", stream),
            ("stop", "a stop string ends it and is not in it", stop),
            ("length", "max_tokens is obeyed", length),
            ("prompt-empty", "an empty list of prompts is refused",
             partial(_refused, {"prompt": []})),
            ("prompt-type", "a prompt of another type is refused",
             partial(_refused, {"prompt": {"a": 1}})),
            ("ids-unknown", "token ids outside the vocabulary are refused",
             partial(_refused, {"prompt": [10**9]})),
            ("best-of", "best_of below n is refused", partial(_refused, {"n": 3, "best_of": 2})),
        )
    ),
)  # fmt: skip
