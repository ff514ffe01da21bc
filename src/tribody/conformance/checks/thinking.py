"""Thinking, and what earlier turns may and must say of it, in both profiles (contract 5)."""

from __future__ import annotations

from tribody.conformance.check import ONLY_2025, ONLY_2026, Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.checks.stream import exclusive
from tribody.conformance.checks.usage import check_usage
from tribody.conformance.target import Target, function
from tribody.conformance.verdict import expect, expect_equal

THOUGHT = "Two and three make five."
TEXT = "It is five."
Fields = dict[str, object]
ASK: Fields = {"role": "user", "content": "What is two and three?"}
CALL: Fields = {
    "id": "call_00_abcdefghijklmnopqrstuvwx",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
RESULT: Fields = {"role": "tool", "tool_call_id": CALL["id"], "content": "sunny"}


def accepted(t: Target) -> None:
    for kind in ("enabled", "disabled"):
        t.chat("Hello.", thinking={"type": kind}, max_tokens=8).ok()


def separated(t: Target) -> None:
    """Where this fails, the checks that need thinking are skipped."""
    found = message(t.thought())
    expect(found.maybe("reasoning_content").raw, "reasoning_content", found.raw)


def both_parts(t: Target) -> None:
    found = message(t.thought())
    reasoning, content = found.at("reasoning_content").text(), found.at("content").text()
    expect(reasoning.strip(), "reasoning in reasoning_content", repr(reasoning))
    t.obeyed(reasoning.strip() == THOUGHT or not t.scripted, THOUGHT, repr(reasoning))
    t.obeyed(content.strip() == TEXT or not t.scripted, TEXT, repr(content))


def no_tags(t: Target) -> None:
    found = message(t.thought())
    text = f"{found.at('reasoning_content').raw}{found.maybe('content').raw}"
    expect("<think>" not in text and "</think>" not in text, "no <think> tags", text)


def reasoning_counted(t: Target) -> None:
    usage = t.thought().at("usage")
    check_usage(usage)
    count = usage.at("completion_tokens_details", "reasoning_tokens").integer()
    expect(count > 0, "reasoning_tokens above 0", count)
    expect(count < usage.at("completion_tokens").integer(), "fewer than completion_tokens", count)


def default_on(t: Target) -> None:
    """V4's contract: who says nothing gets thinking."""
    ask = t.prompts.think(THOUGHT, TEXT)
    fields = t.thinking() | {"thinking": ...}
    found = message(t.chat(ask, **fields).ok()).maybe("reasoning_content")
    expect(found.raw, "reasoning_content though thinking was not mentioned", found.raw)


def disabled(t: Target) -> None:
    answer = t.chat(t.prompts.think(THOUGHT, TEXT), thinking={"type": "disabled"}).ok()
    found = message(answer).maybe("reasoning_content")
    expect(not found.raw, "no reasoning_content with thinking disabled", found.raw)
    answer.at("usage", "completion_tokens_details", "reasoning_tokens").is_(0)


def effort_none(t: Target) -> None:
    fields = t.thinking() | {"thinking": ..., "reasoning_effort": "none"}
    answer = t.needs_200(t.chat(t.prompts.think(THOUGHT, TEXT), **fields), "effort none").json()
    found = message(answer).maybe("reasoning_content")
    expect(not found.raw, "no reasoning_content with reasoning_effort none", found.raw)


def stream_order(t: Target) -> None:
    seen = []
    for delta in t.streamed_thought().deltas():
        for name in ("reasoning_content", "content"):
            if delta.maybe(name).raw:
                seen.append(name)
    expect(seen, "deltas with text", "none")
    expect(seen == sorted(seen, reverse=True), "all reasoning before all content", seen)


def stream_exclusive(t: Target) -> None:
    exclusive(t.streamed_thought())


def stream_first(t: Target) -> None:
    """Clients learn from the first chunk that reasoning follows."""
    first = t.streamed_thought().deltas()[0]
    expect(first.has("reasoning_content"), "reasoning_content in the first delta", first.raw)
    expect(not first.maybe("content").raw, "no content in the first delta", first.raw)


def stream_equals_plain(t: Target) -> None:
    found = message(t.thought())
    stream = t.streamed_thought()
    pair = (found.at("reasoning_content").raw, found.at("content").raw)
    both = (stream.reasoning, stream.content)
    t.obeyed(both == pair, repr(pair), both)  # in thinking, temperature 0 has no effect


def stream_usage(t: Target) -> None:
    details = ("completion_tokens_details", "reasoning_tokens")
    usage = t.streamed_thought().usage
    check_usage(usage)
    streamed, plain = usage.at(*details).integer(), t.thought().at("usage", *details).integer()
    expect(streamed > 0, "reasoning_tokens above 0", streamed)
    t.obeyed(streamed == plain, f"{plain} reasoning_tokens", streamed)


def stop_spares_reasoning(t: Target) -> None:
    ask = t.prompts.think("first STOP then more", "content STOP rest")
    answer = t.chat(ask, stop=["STOP"], temperature=0, **t.thinking()).ok()
    found = message(answer)
    expect_equal(found.at("reasoning_content").text().strip(), "first STOP then more", "reasoning")
    expect_equal(found.at("content").text().strip(), "content", "content")


def max_tokens_counts_reasoning(t: Target) -> None:
    fields = t.thinking() | {"max_tokens": 6}
    answer = t.chat(t.prompts.think("a long thought " * 8, TEXT), **fields).ok()
    answer.at("choices", 0, "finish_reason").is_("length")
    used = answer.at("usage", "completion_tokens").integer()
    expect(used <= 6, "at most 6 completion tokens, reasoning included", used)
    expect(not message(answer).maybe("content").raw, "no content yet", message(answer).raw)


def sampling_ignored(t: Target) -> None:
    """Accepted without effect, and no error."""
    fields = t.thinking(temperature=1.9, presence_penalty=2, frequency_penalty=-2, top_p=0.5)
    expect(t.chat(t.prompts.think(THOUGHT, TEXT), **fields).status == 200, "200", "an error")


def logprobs_of_reasoning(t: Target) -> None:
    fields = t.thinking(logprobs=True, top_logprobs=1)
    answer = t.needs_200(t.chat(t.prompts.think(THOUGHT, TEXT), **fields), "logprobs").json()
    entries = answer.at("choices", 0, "logprobs", "reasoning_content").items()
    expect(entries, "entries in logprobs.reasoning_content", "none")
    for entry in entries:
        expect(entry.at("logprob").number() <= 0, "logprobs of at most 0", entry.raw)


def earlier_reasoning_ignored(t: Target) -> None:
    """Sent back without tools it is not put into the context: the prompt counts the same."""
    earlier: Fields = {"role": "assistant", "content": "Five."}
    ask: Fields = {"role": "user", "content": t.prompts.think(THOUGHT, TEXT)}
    thought = earlier | {"reasoning_content": "I have thought about this for long. " * 8}
    counts = [
        t.chat([ASK, turn, ask], **t.thinking()).ok().at("usage", "prompt_tokens").integer()
        for turn in (earlier, thought)
    ]
    expect(counts[0] == counts[1], "as many prompt tokens with it as without", counts)


def _with_tools(t: Target, turn: Fields) -> int:
    ask: Fields = {"role": "user", "content": "Weather in Paris?"}
    say: Fields = {"role": "user", "content": t.prompts.think(THOUGHT, TEXT)}
    messages: list[Fields] = [ask, turn, RESULT, {"role": "assistant", "content": "Sunny.",
                                    "reasoning_content": "It is sunny."}, say]  # fmt: skip
    answer = t.chat(messages, **t.thinking(tools=[function()]))
    t.kept["with tools"] = answer
    return answer.status


def reasoning_must_come_back(t: Target) -> None:
    turn: Fields = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    status = _with_tools(t, turn)
    expect(status == 400, "400 where reasoning_content is not sent back with tools", status)
    said = t.kept["with tools"].message  # type: ignore[attr-defined]
    expect("reasoning_content" in said, "a sentence that names reasoning_content", said)


def reasoning_came_back(t: Target) -> None:
    turn: Fields = {"role": "assistant", "content": None, "tool_calls": [CALL],
            "reasoning_content": "I need the weather."}  # fmt: skip
    status = _with_tools(t, turn)
    expect(status == 200, "200 where reasoning_content is sent back with tools", status)


def not_thinking_needs_none(t: Target) -> None:
    turn: Fields = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages: list[Fields] = [ASK, turn, RESULT]
    status = t.chat(messages, tools=[function()]).status
    expect(status == 200, "200 without reasoning_content where thinking is disabled", status)


def forced_choice(t: Target) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        fields = t.thinking(tools=[function()], tool_choice=choice)
        answer = t.chat("Weather in Paris?", **fields)
        expect(answer.status == 400, f"400 for tool_choice {choice!r} in thinking", answer.status)


# --- 2025: by name ---------------------------------------------------------------------------


def chat_name_does_not_think(t: Target) -> None:
    found = message(t.chat(t.prompts.think(THOUGHT, TEXT)).ok()).maybe("reasoning_content")
    expect(not found.raw, f"no reasoning_content from {t.model}", found.raw)


def reasoner_names_itself(t: Target) -> None:
    name = t.thought().at("model").text()
    expect(name == t.reasoner or name in t.listed, "the reasoner's name or a listed one", name)


def input_reasoning_refused(t: Target) -> None:
    turn = {"role": "assistant", "content": "Five.", "reasoning_content": THOUGHT}
    answer = t.chat([ASK, turn, ASK], **t.thinking())
    expect(answer.status == 400, "400 for reasoning_content in an input message", answer.status)


def reasoner_logprobs(t: Target) -> None:
    for fields in ({"logprobs": True}, {"top_logprobs": 3, "logprobs": True}):
        answer = t.chat("Hello.", **t.thinking(**fields))
        expect(answer.status in (400, 422), f"400 or 422 for {fields}", answer.status)


SECTION = Section(
    "thinking",
    "Thinking",
    (
        Check("thinking.accepted", "thinking: enabled and disabled are accepted", accepted, (),
              ONLY_2026),
        Check("thinking.separated", "the scripted model's thought is reasoning_content",
              separated, ("scripted",)),
        Check("thinking.parts", "reasoning_content and content side by side", both_parts,
              ("thinking",)),
        Check("thinking.tags", "no <think> tags in either", no_tags, ("thinking",)),
        Check("thinking.usage", "reasoning_tokens are counted within completion_tokens",
              reasoning_counted, ("thinking",)),
        Check("thinking.default", "thinking is on by default", default_on, ("thinking",),
              ONLY_2026),
        Check("thinking.disabled", "thinking: disabled turns it off", disabled, ("thinking",),
              ONLY_2026),
        Check("thinking.effort-none", "reasoning_effort: none turns it off", effort_none,
              ("thinking",), ONLY_2026),
        Check("thinking.stream-order", "streamed: reasoning first, then content", stream_order,
              ("thinking",)),
        Check("thinking.stream-exclusive", "streamed: never both in one chunk", stream_exclusive,
              ("thinking",)),
        Check("thinking.stream-first", "streamed: the first delta announces reasoning_content",
              stream_first, ("thinking",)),
        Check("thinking.stream-equals-plain", "streamed: the same as plain", stream_equals_plain,
              ("thinking",)),
        Check("thinking.stream-usage", "streamed: the same reasoning_tokens", stream_usage,
              ("thinking",)),
        Check("thinking.stop", "stop strings are looked for in content only",
              stop_spares_reasoning, ("thinking", "scripted")),
        Check("thinking.max-tokens", "max_tokens counts reasoning", max_tokens_counts_reasoning,
              ("thinking",)),
        Check("thinking.sampling", "temperature and penalties are accepted", sampling_ignored,
              ("thinking",)),
        Check("thinking.logprobs", "logprobs.reasoning_content", logprobs_of_reasoning,
              ("thinking",), ONLY_2026),
        Check("thinking.earlier", "earlier reasoning is not put into the context",
              earlier_reasoning_ignored, ("thinking",), ONLY_2026),
        Check("thinking.tools-missing", "with tools, missing reasoning_content is a 400",
              reasoning_must_come_back, ("thinking", "tools"), ONLY_2026),
        Check("thinking.tools-present", "with tools, returned reasoning_content is accepted",
              reasoning_came_back, ("thinking", "tools"), ONLY_2026),
        Check("thinking.tools-disabled", "not thinking, none is asked for",
              not_thinking_needs_none, ("tools",), ONLY_2026),
        Check("thinking.tool-choice", "tool_choice required or named is a 400 in thinking",
              forced_choice, ("thinking",), ONLY_2026),
        Check("thinking.chat-name", "deepseek-chat does not think", chat_name_does_not_think,
              ("reasoner",), ONLY_2025),
        Check("thinking.reasoner-name", "the answer names the reasoner", reasoner_names_itself,
              ("thinking",), ONLY_2025),
        Check("thinking.input", "reasoning_content in the input is a 400",
              input_reasoning_refused, ("reasoner",), ONLY_2025),
        Check("thinking.reasoner-logprobs", "logprobs on the reasoner are an error",
              reasoner_logprobs, ("reasoner",), ONLY_2025),
    ),
)  # fmt: skip
