"""The Anthropic surface: messages, events, tools, thinking, errors (contract 9)."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import ONLY_2026, Check, Section
from tribody.conformance.checks.anthropic_messages import (
    TEXT,
    VERSION,
    blocks_of,
    event_types,
    given_tokens,
    joined_deltas,
    message_body,
    plain_message,
    send,
    stream_message,
    streamed_message,
    text_of,
)
from tribody.conformance.json_value import Value
from tribody.conformance.target import WEATHER, Target
from tribody.conformance.verdict import Skipped, expect, expect_equal

TOOL = {"name": "get_weather", "description": "The weather of a city.", "input_schema": WEATHER}
STOP_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")


# --- plain -----------------------------------------------------------------------------------


def shape(t: Target) -> None:
    answer = plain_message(t)
    answer.at("type").is_("message")
    answer.at("role").is_("assistant")
    expect(answer.at("id").text(), "an id", "an empty one")
    answer.at("model").text()
    for block in answer.at("content").items():
        block.at("type").one_of("text", "thinking", "tool_use")


def text(t: Target) -> None:
    found = text_of(plain_message(t))
    t.obeyed(found.strip() == TEXT, repr(TEXT), repr(found))


def stop_reason(t: Target) -> None:
    plain_message(t).at("stop_reason").one_of("end_turn", "max_tokens")
    found = plain_message(t).maybe("stop_sequence")
    expect(found.null, "stop_sequence null", found.raw)


def usage(t: Target) -> None:
    found = plain_message(t).at("usage")
    expect(found.at("input_tokens").integer() >= 0, "input_tokens", found.raw)
    expect(found.at("output_tokens").integer() > 0, "output_tokens", found.raw)


def usage_is_chats(t: Target) -> None:
    """The same text costs the same on both surfaces: input, cache reads and writes together."""
    found = plain_message(t).at("usage")
    total = given_tokens(found)
    ask = t.prompts.say(TEXT)
    chat = t.chat(ask, temperature=0).ok().at("usage", "prompt_tokens").integer()
    expect_equal(total, chat, "input and cached tokens together")


def max_tokens(t: Target) -> None:
    answer = send(t, t.prompts.count(40), max_tokens=4).ok()
    answer.at("stop_reason").is_("max_tokens")
    used = answer.at("usage", "output_tokens").integer()
    expect(used <= 4, "at most 4 output tokens", used)


def stop_sequence(t: Target) -> None:
    ask = t.prompts.say("one two three four")
    answer = send(t, ask, stop_sequences=["three"], temperature=0).ok()
    found = text_of(answer)
    expect("three" not in found, "no stop sequence in the text", found)
    t.obeyed(found == "one two ", "the text before it", repr(found))
    answer.at("stop_reason").is_("stop_sequence")
    answer.at("stop_sequence").is_("three")


def system(t: Target) -> None:
    bare = send(t, t.prompts.say("Yes.")).ok().at("usage")
    for said in ("Be brief and friendly.", [{"type": "text", "text": "Be brief and friendly."}]):
        found = send(t, t.prompts.say("Yes."), system=said).ok().at("usage")
        sums = [given_tokens(bare), given_tokens(found)]
        expect(sums[1] > sums[0], "more input tokens with a system prompt", sums)


def blocks(t: Target) -> None:
    parts = [
        {"type": "text", "text": t.prompts.say("Yes."), "cache_control": {"type": "ephemeral"}}
    ]
    found = text_of(send(t, parts, temperature=0).ok())
    t.obeyed(found.strip() == "Yes.", "Yes.", repr(found))


def ignored(t: Target) -> None:
    send(t, t.prompts.say("Yes."), top_k=5, service_tier="auto", metadata={"user_id": "u-1"}).ok()


CLAUDE = {
    "claude-opus-4-1": ("deepseek-v4-pro",),
    "claude-sonnet-4-5": ("deepseek-flash", "deepseek-v4-flash"),
}  # DeepSeek's mapping, which needs a model of that name


def claude_names(t: Target) -> None:
    """Refused only where no model is served under the name that DeepSeek's mapping leads to."""
    for claude, names in CLAUDE.items():
        answer = send(t, t.prompts.say("Yes."), model=claude)
        served = [n for n in names if t.chat(t.prompts.say("Yes."), model=n).status == 200]
        if answer.status in (400, 404) and not served:
            raise Skipped(f"no model answers to {' or '.join(names)}")
        answer.ok().at("type").is_("message")


# --- stream ----------------------------------------------------------------------------------


def event_names(t: Target) -> None:
    stream = streamed_message(t)
    for event, payload in zip(stream.events, stream.payloads, strict=True):
        kind = payload.at("type").raw
        expect(event.name == kind, f"the line event: {kind}", event.name or "none")


def event_order(t: Target) -> None:
    types = [kind for kind in event_types(streamed_message(t)) if kind != "ping"]
    expect(types[:2] == ["message_start", "content_block_start"], "message_start first", types)
    expect(types[-3:] == ["content_block_stop", "message_delta", "message_stop"],
           "content_block_stop, message_delta, message_stop at the end", types)  # fmt: skip
    middle = set(types[2:-3])
    expect(middle <= {"content_block_start", "content_block_delta", "content_block_stop"},
           "only blocks between", middle)  # fmt: skip


def block_indexes(t: Target) -> None:
    """Blocks open and close one after the other, from 0."""
    opened, current = 0, None
    for event in streamed_message(t).payloads:
        kind = event.at("type").text()
        if kind == "content_block_start":
            expect(current is None, "the last block closed before the next opens", event.raw)
            event.at("index").is_(opened)
            current, opened = opened, opened + 1
        elif kind in ("content_block_delta", "content_block_stop"):
            event.at("index").is_(current)
            current = None if kind == "content_block_stop" else current


def no_done(t: Target) -> None:
    found = [event.data for event in streamed_message(t).events if event.data == "[DONE]"]
    expect(not found, "no [DONE] on this surface", found)


def start_message(t: Target) -> None:
    found = streamed_message(t).payloads[0].at("message")
    found.at("role").is_("assistant")
    expect_equal(found.at("content").raw, [], "content of message_start")
    expect(found.maybe("stop_reason").null, "stop_reason null", found.raw)
    found.at("usage", "input_tokens").integer()


def last_delta(t: Target) -> None:
    found = [e for e in streamed_message(t).payloads if e.at("type").raw == "message_delta"][-1]
    found.at("delta", "stop_reason").one_of(*STOP_REASONS)
    expect_equal(found.at("usage", "output_tokens").raw,
                 plain_message(t).at("usage", "output_tokens").raw, "output_tokens")  # fmt: skip


def stream_text(t: Target) -> None:
    expect_equal(
        joined_deltas(streamed_message(t), "text_delta", "text"),
        text_of(plain_message(t)),
        "the text",
    )


# --- tools and thinking ----------------------------------------------------------------------


def _called(t: Target) -> Value:
    ask = t.prompts.call("get_weather", {"city": "Paris"})
    answer = t.keep("anthropic call", lambda: send(t, ask, tools=[TOOL], temperature=0).ok())
    t.obeyed(blocks_of(answer, "tool_use"), "a tool_use block", answer.raw)
    return answer


def tool_use(t: Target) -> None:
    answer = _called(t)
    answer.at("stop_reason").is_("tool_use")
    block = blocks_of(answer, "tool_use")[0]
    expect(block.at("id").text(), "an id", "an empty one")
    block.at("name").is_("get_weather")
    expect(isinstance(block.at("input").raw, dict), "input as an object", block.raw)
    t.obeyed(block.at("input").raw == {"city": "Paris"}, "the city Paris", block.raw)


def tool_stream(t: Target) -> None:
    _called(t)
    ask = t.prompts.call("get_weather", {"city": "Paris"})
    stream = stream_message(t, ask, tools=[TOOL], temperature=0)
    starts = [e.at("content_block") for e in stream.payloads
              if e.at("type").raw == "content_block_start"]  # fmt: skip
    uses = [block for block in starts if block.at("type").raw == "tool_use"]
    expect(uses, "a tool_use block", [block.raw for block in starts])
    uses[0].at("name").is_("get_weather")
    expect_equal(uses[0].at("input").raw, {}, "input at the start")
    whole = Value(joined_deltas(stream, "input_json_delta", "partial_json"), "the deltas")
    expect_equal(whole.decoded().raw, blocks_of(_called(t), "tool_use")[0].at("input").raw, "input")


def tool_result(t: Target) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    said = {"type": "text", "text": t.prompts.say("It is sunny.")}
    messages = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, said]},
    ]
    found = text_of(send(t, "", messages=messages, tools=[TOOL], temperature=0).ok())
    t.obeyed(found.strip() == "It is sunny.", "the text", repr(found))


def _chosen(choice: dict[str, object], t: Target) -> None:
    answer = t.needs_200(send(t, "Hello.", tools=[TOOL], tool_choice=choice), "tool_choice")
    names = [block.at("name").raw for block in blocks_of(answer.json(), "tool_use")]
    expect(names and set(names) == {"get_weather"}, "a call of get_weather", names)


def choice_none(t: Target) -> None:
    ask = t.prompts.call("get_weather", {"city": "Paris"})
    answer = send(t, ask, tools=[TOOL], tool_choice={"type": "none"}).ok()
    expect(not blocks_of(answer, "tool_use"), "no tool_use", answer.raw)


def _thinks(t: Target) -> dict[str, object]:
    if t.profile == "2025":
        return {"model": t.reasoner}
    return {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 400}


def thinking(t: Target) -> None:
    answer = send(t, t.prompts.think("Hm, five.", "Five."), **_thinks(t)).ok()
    kinds = [block.at("type").raw for block in answer.at("content").items()]
    t.obeyed("thinking" in kinds, "a thinking block", kinds)
    expect(kinds[0] == "thinking", "the thinking block first", kinds)
    found = blocks_of(answer, "thinking")[0].at("thinking").text()
    t.obeyed(found.strip() == "Hm, five." or not t.scripted, "the thought", found)


def thinking_stream(t: Target) -> None:
    stream = stream_message(t, t.prompts.think("Hm, five.", "Five."), **_thinks(t))
    found = joined_deltas(stream, "thinking_delta", "thinking")
    t.obeyed(found.strip(), "thinking deltas", found)
    kinds = [e.at("delta", "type").raw for e in stream.payloads
             if e.at("type").raw == "content_block_delta"]  # fmt: skip
    first_text = kinds.index("text_delta") if "text_delta" in kinds else len(kinds)
    expect("thinking_delta" not in kinds[first_text:], "all thinking before all text", kinds)


# --- errors ----------------------------------------------------------------------------------


def _error(t: Target, content: object, **fields: object) -> None:
    answer = send(t, content, **fields)
    expect(answer.status in (400, 404, 422), "400, 404 or 422", answer.status)
    found = answer.json()
    found.at("type").is_("error")
    expect(found.at("error", "type").text().endswith("_error"), "an …_error", found.raw)
    found.at("error", "message").text()


def _refused(fields: dict[str, object], t: Target) -> None:
    _error(t, "Hello.", **fields)


def content_refused(t: Target) -> None:
    """What cannot be read is refused, not dropped."""
    document = {"type": "document", "source": {"type": "text", "data": "x"}}
    _error(t, [document])
    _error(t, [{"type": "no_such_block"}])
    _error(t, 5)


def error_401(t: Target) -> None:
    headers = {"x-api-key": "sk-wrong-0000000000", "anthropic-version": VERSION}
    path = t.path("anthropic")
    answer = t.client.send("POST", path, payload=message_body(t, "Hello."), headers=headers)
    found = answer.expect_status(401).json()
    found.at("type").is_("error")
    found.at("error", "type").is_("authentication_error")


SECTION = Section(
    "anthropic",
    "Anthropic messages",
    (
        *(
            Check(f"anthropic.{name}", title, run, ("anthropic",))
            for name, title, run in (
                ("shape", "a message with content blocks", shape),
                ("text", "a text block has the text", text),
                ("stop-reason", "stop_reason is end_turn", stop_reason),
                ("usage", "usage has input_tokens and output_tokens", usage),
                ("usage-chat", "the prompt counts what it counts on chat", usage_is_chats),
                ("max-tokens", "max_tokens is obeyed: max_tokens", max_tokens),
                ("stop-sequence", "stop_sequences are obeyed and named", stop_sequence),
                ("system", "system as a string and as blocks", system),
                ("blocks", "content as blocks; cache_control is tolerated", blocks),
                ("ignored", "documented fields without effect are tolerated", ignored),
                ("claude", "claude-* leads to deepseek-flash or -v4-pro", claude_names),
                ("event-names", "streamed: event: names the type", event_names),
                ("event-order", "streamed: events in Anthropic's order", event_order),
                ("event-index", "streamed: blocks open and close in turn", block_indexes),
                ("no-done", "streamed: no [DONE]", no_done),
                ("message-start", "streamed: message_start has an empty message", start_message),
                ("message-delta", "streamed: message_delta has stop_reason and usage", last_delta),
                ("stream-text", "streamed: the same text", stream_text),
                ("tool-use", "a call is a tool_use block", tool_use),
                ("tool-stream", "streamed: input_json_delta adds up", tool_stream),
                ("tool-result", "a tool_result is read", tool_result),
                ("tool-any", "tool_choice any: a call", partial(_chosen, {"type": "any"})),
                ("tool-named", "tool_choice tool: that call",
                 partial(_chosen, {"type": "tool", "name": "get_weather"})),
                ("tool-none", "tool_choice none: no call", choice_none),
                ("no-max-tokens", "max_tokens is required", partial(_refused, {"max_tokens": ...})),
                ("bad-max-tokens", "max_tokens 0 is refused", partial(_refused, {"max_tokens": 0})),
                ("unknown-model", "an unknown model is refused",
                 partial(_refused, {"model": "no-such-model"})),
                ("temperature", "temperature beyond 2 is refused",
                 partial(_refused, {"temperature": 2.5})),
                ("no-messages", "no messages are refused", partial(_refused, {"messages": []})),
                ("bad-role", "an unknown role is refused",
                 partial(_refused, {"messages": [{"role": "robot", "content": "x"}]})),
                ("bad-content", "blocks that cannot be read are refused", content_refused),
            )
        ),
        Check("anthropic.thinking", "a thinking block comes first", thinking,
              ("anthropic", "thinking")),
        Check("anthropic.thinking-stream", "streamed: thinking before text", thinking_stream,
              ("anthropic", "thinking"), ONLY_2026),
        Check("anthropic.401", "a 401 has Anthropic's shape", error_401, ("anthropic", "key")),
    ),
)  # fmt: skip
