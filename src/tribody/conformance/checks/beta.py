"""Chat prefix completion and fill-in-the-middle (contract 6)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tribody.conformance.check import ONLY_2026, Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.checks.usage import check_usage
from tribody.conformance.target import Target
from tribody.conformance.verdict import expect, expect_equal
from tribody.conformance.wire import Answer, EventStream

CODE = "def add(a, b):\n    return "


def _prefixed(t: Target, prefix: str, **more: object) -> Answer:
    last = {"role": "assistant", "content": prefix, "prefix": True, **more}
    ask = {"role": "user", "content": t.prompts.say("Roses are red.")}
    return t.beta([ask, last], temperature=0)


def prefix_continues(t: Target) -> None:
    answer = _prefixed(t, "Roses ").ok()
    text = message(answer).at("content").text()
    expect(not text.startswith("Roses Roses"), "the prefix not repeated", text)
    message(answer).at("role").is_("assistant")


def prefix_is_read(t: Target) -> None:
    """The prefix is part of the prompt: a longer one counts more."""
    counts = [
        _prefixed(t, text).ok().at("usage", "prompt_tokens").integer()
        for text in ("Roses", "Roses " * 30)
    ]
    expect(counts[1] > counts[0] + 20, "more prompt tokens for a longer prefix", counts)


def prefix_stream(t: Target) -> None:
    last = {"role": "assistant", "content": "Roses ", "prefix": True}
    ask = {"role": "user", "content": t.prompts.say("Roses are red.")}
    body = t.body([ask, last], temperature=0, stream=True)
    answer = t.post(body, t.path("beta")).expect_status(200)
    events = EventStream.read(answer.body)
    text = "".join(
        str(chunk.maybe("choices", 0, "delta", "content").raw or "") for chunk in events.payloads
    )
    expect_equal(text, message(_prefixed(t, "Roses ").ok()).at("content").raw, "the streamed text")


def prefix_thought(t: Target) -> None:
    last = {"role": "assistant", "content": "", "prefix": True,
            "reasoning_content": "Let me see, "}  # fmt: skip
    ask = {"role": "user", "content": t.prompts.think("Let me see, five.", "Five.")}
    answer = t.beta([ask, last], temperature=0, **t.thinking())
    t.needs_200(answer, "a prefix of reasoning").json().at("choices", 0, "message")


def prefix_not_last(t: Target) -> None:
    first = {"role": "assistant", "content": "Roses ", "prefix": True}
    user = {"role": "user", "content": "Go on."}
    t.beta([user, first, user]).refused()


def prefix_of_user(t: Target) -> None:
    t.beta([{"role": "user", "content": "Roses", "prefix": True}]).refused()


def prefix_type(t: Target) -> None:
    user = {"role": "user", "content": "Go on."}
    t.beta([user, {"role": "assistant", "content": "Roses ", "prefix": "yes"}]).refused()


# --- FIM -------------------------------------------------------------------------------------


def _fim(t: Target, **fields: object) -> Answer:
    body: dict[str, object] = {
        "model": t.model,
        "prompt": CODE,
        "suffix": "\n\nprint(add(1, 2))\n",
        "max_tokens": 16,
        "temperature": 0,
    }
    return t.post(body | fields, t.path("fim"))


def fim_shape(t: Target) -> None:
    answer = _fim(t).ok()
    answer.at("object").is_("text_completion")
    answer.at("id").text()
    answer.at("created").integer()
    answer.at("choices", 0, "text").text()
    answer.at("choices", 0, "index").is_(0)
    answer.at("choices", 0, "finish_reason").one_of("stop", "length")


def fim_usage(t: Target) -> None:
    check_usage(_fim(t).ok().at("usage"))


def fim_without_suffix(t: Target) -> None:
    t.post({"model": t.model, "prompt": CODE, "max_tokens": 8}, t.path("fim")).ok()


def fim_suffix_is_read(t: Target) -> None:
    short = _fim(t, suffix="\n").ok().at("usage", "prompt_tokens").integer()
    long = _fim(t, suffix="\n# more" * 20).ok().at("usage", "prompt_tokens").integer()
    expect(long > short, "more prompt tokens for a longer suffix", f"{short} and {long}")


def fim_max_tokens(t: Target) -> None:
    answer = _fim(t, max_tokens=3).ok()
    used = answer.at("usage", "completion_tokens").integer()
    expect(used <= 3, "at most 3 completion tokens", used)


def fim_echo(t: Target) -> None:
    text = t.needs_200(_fim(t, echo=True, suffix=None), "echo").json().at("choices", 0, "text")
    expect(text.text().startswith(CODE), "the prompt before the text", text.raw)


def fim_logprobs(t: Target) -> None:
    found = t.needs_200(_fim(t, logprobs=2), "logprobs").json().at("choices", 0, "logprobs")
    sizes = [len(found.at(name).items()) for name in ("tokens", "token_logprobs", "text_offset")]
    expect(len(set(sizes)) == 1 and sizes[0] > 0, "three lists of one length", sizes)
    found.at("top_logprobs").items()


def fim_stream(t: Target) -> None:
    answer = _fim(t, stream=True).expect_status(200)
    stream = EventStream.read(answer.body)
    expect(stream.events and stream.events[-1].data == "[DONE]", "[DONE] at the end", stream.events)
    text = "".join(
        str(choice.maybe("text").raw or "")
        for chunk in stream.payloads
        for choice in chunk.at("choices").items()
    )
    expect_equal(text, _fim(t).ok().at("choices", 0, "text").raw, "the streamed text")


def _refused(fields: Mapping[str, object], t: Target) -> None:
    answer = _fim(t, **fields)
    expect(answer.status in (400, 422), f"400 or 422 for {fields!r}"[:120], answer.status)


SECTION = Section(
    "beta",
    "Chat prefix and FIM",
    (
        Check("beta.prefix", "a prefix is continued, not repeated", prefix_continues, ("beta",)),
        Check("beta.prefix-read", "a prefix is part of the prompt", prefix_is_read, ("beta",)),
        Check("beta.prefix-stream", "streamed: the same text", prefix_stream, ("beta",)),
        Check("beta.prefix-thought", "reasoning_content may be a prefix", prefix_thought,
              ("beta", "thinking"), ONLY_2026),
        Check("beta.prefix-last", "a prefix that is not last is refused", prefix_not_last,
              ("beta",)),
        Check("beta.prefix-user", "a prefix by the user is refused", prefix_of_user, ("beta",)),
        Check("beta.prefix-type", "prefix of another type is refused", prefix_type, ("beta",)),
        Check("beta.fim", "FIM answers a text_completion", fim_shape, ("fim",)),
        Check("beta.fim-usage", "FIM usage obeys the sums", fim_usage, ("fim",)),
        Check("beta.fim-no-suffix", "FIM needs no suffix", fim_without_suffix, ("fim",)),
        Check("beta.fim-suffix", "the suffix is part of the prompt", fim_suffix_is_read, ("fim",)),
        Check("beta.fim-length", "FIM obeys max_tokens", fim_max_tokens, ("fim",)),
        Check("beta.fim-echo", "FIM echo", fim_echo, ("fim",)),
        Check("beta.fim-logprobs", "FIM logprobs: lists of one length", fim_logprobs, ("fim",)),
        Check("beta.fim-stream", "FIM streamed: the same text, [DONE]", fim_stream, ("fim",)),
        *(
            Check(f"beta.fim-{name}", f"FIM refuses {what}", partial(_refused, fields), ("fim",))
            for name, what, fields in (
                ("no-prompt", "a missing prompt", {"prompt": None}),
                ("too-long", "max_tokens above 4,096", {"max_tokens": 4097}),
                ("logprobs-21", "logprobs above 20", {"logprobs": 21}),
                ("stops-17", "17 stop strings", {"stop": [f"#{i}#" for i in range(17)]}),
                ("suffix-type", "a suffix that is no string", {"suffix": 5}),
            )
        ),
    ),
)  # fmt: skip
