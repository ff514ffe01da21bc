"""The shape of a plain chat answer and what must hold in it (contract 3)."""

from __future__ import annotations

import re
import time

from tribody.conformance.check import Check, Section
from tribody.conformance.checks.usage import check_cache, check_details, check_sums
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import expect, expect_equal

BARE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEXTS = "The sky is blue."
WORLD = "naïve 你好，世界 🎉 👩‍👩‍👧 \u200b ok"
DAY_SECONDS = 86_400


def message(answer: Value) -> Value:
    return answer.at("choices", 0, "message")


def id_form(t: Target) -> None:
    found = t.plain().at("id").text()
    expect(BARE_ID.fullmatch(found), "id to be a bare UUID or 32 hex digits", found)


def ids_differ(t: Target) -> None:
    ask = t.prompts.say(TEXTS)
    ids = {t.chat(ask, temperature=0).ok().at("id").text() for _ in range(3)}
    expect(len(ids) == 3, "three ids for three requests", ids)


def object_name(t: Target) -> None:
    t.plain().at("object").is_("chat.completion")


def created(t: Target) -> None:
    age = abs(time.time() - t.plain().at("created").integer())
    expect(age < DAY_SECONDS, "created in seconds since 1970, now", t.plain().at("created").raw)


def model_name(t: Target) -> None:
    """The name that really answered: the one that was asked, or one that is listed."""
    found = t.plain().at("model").text()
    expect(found == t.model or found in t.listed, f"{t.model!r} or a listed model", found)


def fingerprint(t: Target) -> None:
    expect(t.plain().at("system_fingerprint").text(), "a system_fingerprint", "an empty one")


def one_choice(t: Target) -> None:
    expect_equal(len(t.plain().at("choices").items()), 1, "the number of choices")
    t.plain().at("choices", 0, "index").is_(0)


def role(t: Target) -> None:
    message(t.plain()).at("role").is_("assistant")


def content(t: Target) -> None:
    text = message(t.plain()).at("content").text()
    t.obeyed(text.strip() == TEXTS, f"the content {TEXTS!r}", repr(text))


def finish_stop(t: Target) -> None:
    found = t.plain().at("choices", 0, "finish_reason").text()
    expect(found in ("stop", "length"), "finish_reason stop", found)
    t.obeyed(found == "stop", "an answer that ends by itself", found)


def logprobs_null(t: Target) -> None:
    found = t.plain().maybe("choices", 0, "logprobs")
    expect(found.null, "logprobs null where they were not asked for", found.raw)


def no_reasoning(t: Target) -> None:
    found = message(t.plain()).maybe("reasoning_content")
    expect(found.null, "no reasoning_content without thinking", found.raw)


def no_tool_calls(t: Target) -> None:
    found = message(t.plain()).maybe("tool_calls")
    expect(not found.raw, "no tool_calls without tools", found.raw)


def content_type(t: Target) -> None:
    found = t.plain_answer().header("content-type")
    expect(found.startswith("application/json"), "content-type application/json", found)


def usage_sums(t: Target) -> None:
    check_sums(t.plain().at("usage"))


def usage_cache(t: Target) -> None:
    check_cache(t.plain().at("usage"))


def usage_details(t: Target) -> None:
    usage = t.plain().at("usage")
    usage.at("completion_tokens_details", "reasoning_tokens").is_(0)
    check_details(usage)


def usage_grows(t: Target) -> None:
    """The prompt is counted as the model reads it: more text, more tokens."""
    short = t.chat(t.prompts.say("a")).ok().at("usage", "prompt_tokens").integer()
    long = t.chat(t.prompts.say("a " * 40)).ok().at("usage", "prompt_tokens").integer()
    expect(long >= short + 20, f"at least {short + 20} prompt tokens for 40 words more", long)


def counted(t: Target) -> None:
    """A token of the scripted model is a byte; the end token may count as one more."""
    used = t.chat(t.prompts.say("x" * 20), temperature=0).ok().at("usage", "completion_tokens")
    expect(20 <= used.integer() <= 21, "20 tokens, or 21 with the end token", used.raw)


def unicode_text(t: Target) -> None:
    answer = t.chat(t.prompts.say(WORLD), temperature=0).ok()
    text = message(answer).at("content").text()
    t.obeyed(text == WORLD, f"the content {WORLD!r}", repr(text))


def deterministic(t: Target) -> None:
    ask = t.prompts.count(12)
    texts = {message(t.chat(ask, temperature=0, max_tokens=12).ok()).at("content").text()
             for _ in range(2)}  # fmt: skip
    expect(len(texts) == 1, "one answer for temperature 0", texts)


def _with_logprobs(t: Target) -> Value:
    ask = t.prompts.say(TEXTS)
    return t.keep(
        "logprobs",
        lambda: t.needs_200(
            t.chat(ask, temperature=0, logprobs=True, top_logprobs=3), "logprobs"
        ).json(),
    )


def _entries(t: Target) -> list[Value]:
    found = _with_logprobs(t).at("choices", 0, "logprobs", "content").items()
    expect(found, "at least one entry in logprobs.content", "none")
    return found


def logprob_entries(t: Target) -> None:
    for entry in _entries(t):
        entry.at("token").text()
        value = entry.at("logprob").number()
        expect(value <= 0, f"{entry.path}.logprob to be at most 0", value)
        expect(entry.has("bytes"), f"bytes in {entry.path}", entry.raw)


def logprob_text(t: Target) -> None:
    text = message(_with_logprobs(t)).at("content").text().encode()
    joined = bytearray()
    for entry in _entries(t):
        if not entry.at("bytes").null:
            joined += bytes(number.integer() & 255 for number in entry.at("bytes").items())
    whole = bytes(joined)
    expect(whole.startswith(text.strip()) or text in whole, f"bytes that spell {text!r}", whole)


def logprob_tops(t: Target) -> None:
    for entry in _entries(t):
        tops = [top.at("logprob").number() for top in entry.at("top_logprobs").items()]
        expect(len(tops) <= 3, f"at most 3 in {entry.path}.top_logprobs", len(tops))
        expect(tops == sorted(tops, reverse=True), "top_logprobs in falling order", tops)


def logprobs_without_tops(t: Target) -> None:
    answer = t.needs_200(t.chat(t.prompts.say("Yes."), logprobs=True), "logprobs").json()
    for entry in answer.at("choices", 0, "logprobs", "content").items():
        expect(entry.maybe("top_logprobs").raw in ([], None), "no top_logprobs", entry.raw)


SECTION = Section(
    "plain",
    "Plain answers",
    (
        Check("plain.id", "id is a bare UUID", id_form),
        Check("plain.ids-differ", "every answer has its own id", ids_differ),
        Check("plain.object", "object is chat.completion", object_name),
        Check("plain.created", "created is now, in seconds", created),
        Check("plain.model", "model names what answered", model_name),
        Check("plain.fingerprint", "there is a system_fingerprint", fingerprint),
        Check("plain.choice", "one choice of index 0", one_choice),
        Check("plain.role", "the message is the assistant's", role),
        Check("plain.content", "content is the text", content),
        Check("plain.stop", "finish_reason is stop", finish_stop),
        Check("plain.logprobs-null", "logprobs is null unless asked for", logprobs_null),
        Check("plain.no-reasoning", "no reasoning_content without thinking", no_reasoning),
        Check("plain.no-tool-calls", "no tool_calls without tools", no_tool_calls),
        Check("plain.content-type", "content-type is application/json", content_type),
        Check("plain.usage-sums", "total = prompt + completion", usage_sums),
        Check("plain.usage-cache", "prompt = hit + miss, and both spellings of the hits",
              usage_cache),
        Check("plain.usage-reasoning", "reasoning_tokens is 0 without thinking", usage_details),
        Check("plain.usage-grows", "a longer prompt counts more tokens", usage_grows),
        Check("plain.usage-count", "completion_tokens is what was written", counted,
              ("scripted",)),
        Check("plain.unicode", "text outside ASCII arrives as it was written", unicode_text),
        Check("plain.deterministic", "temperature 0 answers the same twice", deterministic),
        Check("plain.logprobs", "logprobs: token, logprob and bytes of each token",
              logprob_entries),
        Check("plain.logprobs-text", "the bytes of the tokens are the text", logprob_text),
        Check("plain.logprobs-top", "top_logprobs: at most what was asked, best first",
              logprob_tops),
        Check("plain.logprobs-alone", "logprobs without top_logprobs", logprobs_without_tops),
    ),
)  # fmt: skip
