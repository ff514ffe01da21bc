"""Streamed chat answers: order, ids, usage, the end (contract 4)."""

from __future__ import annotations

from collections.abc import Callable

from tribody.conformance.chat_stream import ChatStream
from tribody.conformance.check import ONLY_2026, Check, Section
from tribody.conformance.checks.plain import BARE_ID, WORLD, message
from tribody.conformance.checks.usage import check_usage
from tribody.conformance.target import Target
from tribody.conformance.verdict import expect, expect_equal


def content_type(t: Target) -> None:
    found = t.streamed().answer.header("content-type")
    expect(found.startswith("text/event-stream"), "content-type text/event-stream", found)


def not_cached(t: Target) -> None:
    found = t.streamed().answer.header("cache-control")
    expect("no-cache" in found or "no-store" in found, "cache-control no-cache", found or "none")


def done(t: Target) -> None:
    events = t.streamed().events.events
    count = sum(event.data == "[DONE]" for event in events)
    expect(count == 1, "one data: [DONE]", f"{count} of them")
    expect(events[-1].data == "[DONE]", "[DONE] as the last event", events[-1].data)


def framing(t: Target) -> None:
    stream = t.streamed().events
    expect(not stream.unfinished.strip(), "a blank line after every event", stream.unfinished)
    for event in stream.events:
        expect("\n" not in event.data, "one line of JSON in each event", event.data)
        expect(not event.name, "no event: lines on this surface", event.name)


def object_name(t: Target) -> None:
    for chunk in t.streamed().chunks:
        chunk.at("object").is_("chat.completion.chunk")


def _same(name: str) -> Callable[[Target], None]:
    def check(t: Target) -> None:
        found = {repr(chunk.at(name).raw) for chunk in t.streamed().chunks}
        expect(len(found) == 1, f"the same {name} on every chunk", found)

    return check


def id_form(t: Target) -> None:
    found = t.streamed().chunks[0].at("id").text()
    expect(BARE_ID.fullmatch(found), "id to be a bare UUID or 32 hex digits", found)


def role_first(t: Target) -> None:
    deltas = t.streamed().deltas()
    expect(deltas, "at least one delta", "none")
    deltas[0].at("role").is_("assistant")
    later = [delta.raw for delta in deltas[1:] if not delta.maybe("role").null]
    later = [delta for delta in later if delta.get("role") != "assistant"]  # type: ignore[attr-defined]
    expect(not later, "no other role later", later)


def several_chunks(t: Target) -> None:
    """An answer that arrives as one piece is not streamed."""
    pieces = [
        delta.maybe("content").raw
        for delta in t.stream(t.prompts.count(20), max_tokens=20).deltas()
    ]
    filled = [piece for piece in pieces if piece]
    expect(len(filled) >= 2, "content in at least two chunks", len(filled))


def one_finish(t: Target) -> None:
    stream = t.streamed()
    reasons = stream.finish_reasons()
    expect(len(reasons) == 1, "one finish_reason in the stream", reasons)
    with_choices = [chunk for chunk in stream.chunks if chunk.at("choices").items()]
    last = with_choices[-1].at("choices", 0)
    expect(not last.maybe("finish_reason").null, "finish_reason on the last choice", last.raw)


def usage_last(t: Target) -> None:
    *early, last = t.streamed().chunks
    for chunk in early:
        expect(chunk.maybe("usage").null, "usage null before the last chunk", chunk.raw)
    expect(not last.maybe("usage").null, "usage on the last chunk", last.raw)


def usage_holds(t: Target) -> None:
    check_usage(t.streamed().usage)


def usage_unasked(t: Target) -> None:
    last = t.stream(t.prompts.say("Yes.")).chunks[-1]
    expect(not last.maybe("usage").null, "usage on the last chunk though not asked", last.raw)


def no_extra_chunk(t: Target) -> None:
    """The late-2026 shape: the chunk with finish_reason carries usage; none has `choices: []`."""
    last = t.streamed().chunks[-1]
    expect_equal(len(last.at("choices").items()), 1, "the number of choices on the last chunk")
    expect(not last.at("choices", 0).maybe("finish_reason").null, "finish_reason there", last.raw)


def equals_plain(t: Target) -> None:
    text = message(t.plain()).at("content").text()
    expect_equal(t.streamed().content, text, "the streamed text")


def usage_equals_plain(t: Target) -> None:
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        expect_equal(t.streamed().usage.at(name).raw, t.plain().at("usage", name).raw, name)


def finish_equals_plain(t: Target) -> None:
    found = t.plain().at("choices", 0, "finish_reason").raw
    expect_equal(t.streamed().finish_reasons(), [found], "the finish reasons")


def length(t: Target) -> None:
    stream = t.stream(t.prompts.count(40), max_tokens=4)
    t.obeyed(stream.finish_reasons() == ["length"], "length", stream.finish_reasons())
    if not stream.chunks[-1].maybe("usage").null:
        used = stream.usage.at("completion_tokens").integer()
        expect(used <= 4, "at most 4 completion tokens", used)


def stop_string(t: Target) -> None:
    """No part of a stop string leaves, though its tokens come one by one."""
    stream = t.stream(t.prompts.say("one two three four"), stop=["two three"], temperature=0)
    expect("tw" not in stream.content, "no part of the stop string", stream.content)
    t.obeyed(stream.content == "one ", "the text before it", repr(stream.content))
    expect_equal(stream.finish_reasons(), ["stop"], "the finish reasons")


def unicode_text(t: Target) -> None:
    content = t.stream(t.prompts.say(WORLD), temperature=0).content
    expect("\ufffd" not in content, "no broken characters", content)
    t.obeyed(content == WORLD, f"the content {WORLD!r}", repr(content))


def logprobs(t: Target) -> None:
    fields: dict[str, object] = {"logprobs": True, "top_logprobs": 2, "temperature": 0}
    t.needs_200(t.chat(t.prompts.say("Yes."), **fields), "logprobs")
    stream = t.stream(t.prompts.say("Yes."), **fields)
    entries = [
        entry
        for chunk in stream.chunks
        for choice in chunk.at("choices").items()
        if not choice.maybe("logprobs", "content").null
        for entry in choice.at("logprobs", "content").items()
    ]
    expect(entries, "logprobs in the chunks", "none")
    for entry in entries:
        expect(entry.at("logprob").number() <= 0, "logprobs of at most 0", entry.raw)


def several_choices(t: Target) -> None:
    t.needs_200(t.chat(t.prompts.say("Two."), n=2), "n=2")
    stream = t.stream(t.prompts.say("Two."), n=2)
    for choice in (0, 1):
        expect_equal(len(stream.finish_reasons(choice)), 1, f"finish reasons of choice {choice}")
        t.obeyed(stream.joined("content", choice) == "Two.", "the text of each choice",
                 stream.joined("content", choice))  # fmt: skip


def comments(t: Target) -> None:
    """Whatever comes between events is a comment that a client passes over."""
    for line in t.streamed().events.raw.decode(errors="replace").splitlines():
        expect(
            not line or line.startswith((":", "data:", "id:", "retry:")),
            "only data, comments and blank lines",
            line,
        )


def error_before(t: Target) -> None:
    """A request that is wrong gets its status, not a stream that says so."""
    answer = t.chat("Hello.", stream=True, temperature=9).refused()
    found = answer.header("content-type")
    expect(found.startswith("application/json"), "content-type application/json", found)


def exclusive(stream: ChatStream) -> None:
    for delta in stream.deltas():
        both = delta.maybe("content").raw and delta.maybe("reasoning_content").raw
        expect(not both, "reasoning and content never in one chunk", delta.raw)


def never_both(t: Target) -> None:
    exclusive(t.streamed())


def hang_up(t: Target) -> None:
    """A client that leaves takes nothing with it: the next request is answered."""
    body = t.body(t.prompts.count(60), stream=True)
    for _ in range(3):
        t.client.hang_up(t.chat_path, body)
    t.chat(t.prompts.say("Still here.")).ok()


SECTION = Section(
    "stream",
    "Streams",
    (
        Check("stream.content-type", "content-type is text/event-stream", content_type),
        Check("stream.no-cache", "cache-control forbids keeping it", not_cached),
        Check("stream.done", "one [DONE], at the end", done),
        Check("stream.framing", "each event is one line and ends with a blank line", framing),
        Check("stream.comments", "between events only comments", comments),
        Check("stream.object", "object is chat.completion.chunk", object_name),
        Check("stream.same-id", "the same id on every chunk", _same("id")),
        Check("stream.same-created", "the same created on every chunk", _same("created")),
        Check("stream.same-model", "the same model on every chunk", _same("model")),
        Check("stream.id", "id is a bare UUID", id_form),
        Check("stream.role", "the first delta has the role", role_first),
        Check("stream.pieces", "the text comes in several chunks", several_chunks),
        Check("stream.finish", "one finish_reason, on the last choice", one_finish),
        Check("stream.usage-last", "usage on the last chunk only", usage_last),
        Check("stream.usage", "usage obeys the sums", usage_holds),
        Check("stream.usage-unasked", "usage comes without include_usage", usage_unasked,
              profiles=ONLY_2026),
        Check("stream.no-extra-chunk", "no chunk without choices", no_extra_chunk,
              profiles=ONLY_2026),
        Check("stream.equals-plain", "the same text as the plain answer", equals_plain),
        Check("stream.usage-equals-plain", "the same usage as the plain answer",
              usage_equals_plain),
        Check("stream.finish-equals-plain", "the same finish_reason as the plain answer",
              finish_equals_plain),
        Check("stream.length", "max_tokens ends it: length", length),
        Check("stream.stop", "no part of a stop string is sent", stop_string),
        Check("stream.unicode", "characters are never cut", unicode_text),
        Check("stream.never-both", "reasoning and content never in one chunk", never_both),
        Check("stream.logprobs", "logprobs come with their chunks", logprobs),
        Check("stream.n", "n=2 streams two choices", several_choices),
        Check("stream.error-before", "a wrong request is refused before the stream", error_before),
        Check("stream.hang-up", "a client that leaves does no harm", hang_up),
    ),
)  # fmt: skip
