"""Function calls: shape, fragments, choice, round trips, strict schemas (contract 2, 4, 6)."""

from __future__ import annotations

import re
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.checks.usage import check_usage
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target, function
from tribody.conformance.verdict import expect, expect_equal

Fields = dict[str, object]
CALL_ID = re.compile(r"call_\d\d_[A-Za-z0-9_-]{20,32}")
USER: Fields = {"role": "user", "content": "Weather in Paris?"}
CALL: Fields = {
    "id": "call_00_abcdefghijklmnopqrstuvwx",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
CALLED: Fields = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: Fields = {"role": "tool", "tool_call_id": CALL["id"], "content": "sunny, 21 degrees"}
PARIS = {"city": "Paris"}
NESTED: dict[str, object] = {
    "text": 'Ünï "quoted" \\ line\nbreak 你好 🎉 </tool>',
    "list": [1, 2.5, True, None, {"a": []}],
    "empty": {},
}


def calls_of(answer: Value) -> list[Value]:
    return message(answer).at("tool_calls").items()


def arguments_of(call: Value) -> object:
    return call.at("function", "arguments").decoded().raw


def accepted(t: Target) -> None:
    t.chat(t.prompts.say("Yes."), tools=[function()]).ok()


def offered(t: Target) -> None:
    """Where this fails, the checks that need a call are skipped."""
    expect(message(t.called()).maybe("tool_calls").raw, "tool_calls", message(t.called()).raw)


def shape(t: Target) -> None:
    call = calls_of(t.called())[0]
    call.at("type").is_("function")
    expect(call.at("id").text(), "an id", "an empty one")
    call.at("function", "name").text()
    call.at("function", "arguments").text()


def id_form(t: Target) -> None:
    found = calls_of(t.called())[0].at("id").text()
    expect(CALL_ID.fullmatch(found), "an id like call_00_ and 24 characters", found)


def finish(t: Target) -> None:
    t.called().at("choices", 0, "finish_reason").is_("tool_calls")


def no_markup(t: Target) -> None:
    """The model's own markup of calls is not left in the content."""
    content = message(t.called()).maybe("content").raw or ""
    expect("tool" not in str(content) and "<" not in str(content), "no markup", content)


def arguments(t: Target) -> None:
    call = calls_of(t.called())[0]
    t.obeyed(call.at("function", "name").raw == "get_weather", "get_weather called", call.raw)
    t.obeyed(arguments_of(call) == PARIS, f"the arguments {PARIS!r}", call.raw)


def nested_arguments(t: Target) -> None:
    tool = function("store", parameters={"type": "object", "properties": {}})
    answer = t.chat(t.prompts.call("store", NESTED), tools=[tool], max_tokens=512).ok()
    expect_equal(arguments_of(calls_of(answer)[0]), NESTED, "the arguments")


def no_arguments(t: Target) -> None:
    tool = function("now", parameters={"type": "object", "properties": {}})
    answer = t.chat(t.prompts.call("now", {}), tools=[tool]).ok()
    expect_equal(arguments_of(calls_of(answer)[0]), {}, "the arguments")


def usage(t: Target) -> None:
    check_usage(t.called().at("usage"))


def tools_are_read(t: Target) -> None:
    """Definitions are in the prompt and counted there."""
    ask = t.prompts.say("Yes.")
    bare = t.chat(ask).ok().at("usage", "prompt_tokens").integer()
    answer = t.needs_200(t.chat(ask, tools=[function()]), "tools")
    full = answer.json().at("usage", "prompt_tokens").integer()
    expect(full > bare, "more prompt tokens with tools", f"{full} against {bare}")


def text_and_call(t: Target) -> None:
    ask = t.prompts.call("get_weather", PARIS, before="Let me look.")
    found = t.chat(ask, tools=[function()]).ok()
    expect_equal(message(found).at("content").text().strip(), "Let me look.", "content")
    expect_equal(len(calls_of(found)), 1, "the number of calls")


# --- stream ----------------------------------------------------------------------------------


def first_fragment(t: Target) -> None:
    fragments = t.streamed_call().fragments()
    expect(fragments, "tool_calls in the deltas", "none")
    first = fragments[0]
    first.at("index").is_(0)
    first.at("type").is_("function")
    expect(first.at("id").text(), "an id on the first fragment", first.raw)
    expect(first.at("function", "name").text(), "a name on the first fragment", first.raw)


def later_fragments(t: Target) -> None:
    for piece in t.streamed_call().fragments()[1:]:
        piece.at("index").integer()
        piece.at("function", "arguments").text()
        repeated = piece.maybe("id").raw or piece.maybe("function", "name").raw
        expect(not repeated, "id and name on the first fragment only", piece.raw)


def stream_equals_plain(t: Target) -> None:
    plain = calls_of(t.called())
    expected = [(c.at("function", "name").raw, c.at("function", "arguments").raw) for c in plain]
    expect_equal(t.streamed_call().calls(), expected, "the streamed calls")


def stream_finish(t: Target) -> None:
    expect_equal(t.streamed_call().finish_reasons(), ["tool_calls"], "the finish reasons")


def stream_order(t: Target) -> None:
    ask = t.prompts.call("get_weather", PARIS, before="Let me look.")
    stream = t.stream(ask, tools=[function()])
    seen = []
    for delta in stream.deltas():
        seen += ["content"] if delta.maybe("content").raw else []
        seen += ["tool_calls"] if delta.maybe("tool_calls").raw else []
    expect(seen == sorted(seen), "content before tool calls", seen)
    expect_equal(stream.content.strip(), "Let me look.", "content")


TWO = (("get_weather", {"city": "Paris"}), ("get_time", {"city": "Rome"}))
BOTH_TOOLS = [function(), function("get_time")]


def parallel(t: Target) -> None:
    calls = calls_of(t.chat(t.prompts.calls(*TWO), tools=BOTH_TOOLS, max_tokens=256).ok())
    t.obeyed(len(calls) == 2, "two calls", len(calls))
    ids = {call.at("id").text() for call in calls}
    expect(len(ids) == 2, "two ids", ids)
    found = [(call.at("function", "name").raw, arguments_of(call)) for call in calls]
    t.obeyed(found == list(TWO), repr(TWO), found)


def parallel_stream(t: Target) -> None:
    stream = t.stream(t.prompts.calls(*TWO), tools=BOTH_TOOLS, max_tokens=256)
    calls = stream.calls()
    t.obeyed(len(calls) == 2, "two calls", len(calls))
    found = [(name, Value(text, "the arguments").decoded().raw) for name, text in calls]
    t.obeyed(found == list(TWO), repr(TWO), found)
    ids = [piece.at("id").text() for piece in stream.fragments() if piece.maybe("id").raw]
    expect(len(set(ids)) == 2, "two ids", ids)


# --- choice ----------------------------------------------------------------------------------


def choice_none(t: Target) -> None:
    ask = t.prompts.call("get_weather", PARIS)
    answer = t.chat(ask, tools=[function()], tool_choice="none").ok()
    expect(not message(answer).maybe("tool_calls").raw, "no calls", message(answer).raw)
    finish_reason = answer.at("choices", 0, "finish_reason").raw
    expect(finish_reason != "tool_calls", "another finish_reason", finish_reason)


def choice_auto(t: Target) -> None:
    answer = t.chat(t.prompts.say("No call."), tools=[function()], tool_choice="auto").ok()
    t.obeyed(not message(answer).maybe("tool_calls").raw, "no call", message(answer).raw)


def choice_required(t: Target) -> None:
    fields: dict[str, object] = {"tools": BOTH_TOOLS, "tool_choice": "required"}
    answer = t.needs_200(t.chat("Hello.", max_tokens=256, **fields), "required").json()
    calls = calls_of(answer)
    expect(calls, "at least one call", "none")
    name = calls[0].at("function", "name").raw
    expect(name in ("get_weather", "get_time"), "one of the functions", name)


def choice_named(t: Target) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    fields: dict[str, object] = {"tools": BOTH_TOOLS, "tool_choice": choice}
    answer = t.needs_200(t.chat("Hello.", max_tokens=256, **fields), "a named choice").json()
    names = [call.at("function", "name").raw for call in calls_of(answer)]
    expect(names and set(names) == {"get_time"}, "get_time called", names)


def _refused(fields: dict[str, object], t: Target) -> None:
    answer = t.chat("Hello.", **fields)
    expect(answer.status in (400, 422), "400 or 422", answer.status)


OTHER = {"type": "function", "function": {"name": "nobody"}}


# --- round trips -----------------------------------------------------------------------------


def result(t: Target) -> None:
    ask: Fields = {"role": "user", "content": t.prompts.say("It is sunny.")}
    t.needs_200(t.chat([USER, CALLED, RESULT], tools=[function()]), "a tool's result")
    answer = t.chat([USER, CALLED, RESULT, ask], tools=[function()]).ok()
    t.obeyed(message(answer).maybe("content").raw == "It is sunny.", "the text", answer.raw)


def result_without_tools(t: Target) -> None:
    """A conversation that had tools once may go on without."""
    t.needs_200(t.chat([USER, CALLED, RESULT]), "a tool's result")


def _bad_conversation(messages: list[dict[str, object]], t: Target) -> None:
    answer = t.chat(messages, tools=[function()])
    expect(answer.status in (400, 422), "400 or 422", answer.status)


# --- text that is no call --------------------------------------------------------------------

BEGIN = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
END = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
NO_CALLS = {
    "name-only": (f"{BEGIN}get_weather", "no arguments"),
    "no-separator": (f"{BEGIN}nothing separates this{END}", "no separator"),
    "no-json": (f"{BEGIN}get_weather<｜tool▁sep｜>sunny tomorrow{END}", "no JSON for arguments"),
    "no-end": ("<｜tool▁calls▁begin｜>nothing follows", "nothing in it"),
}
BROKEN = (
    f'{BEGIN}get_weather<｜tool▁sep｜>{{"city": "Paris, Texas',
    f'{BEGIN}get_weather<｜tool▁sep｜>{{"city": Texas}}{END}',
)  # arguments that begin as JSON and break: they may have been streamed already


def _words(text: str) -> list[str]:
    """The words that the model wrote around its markup."""
    return [word for word in re.findall(r"[A-Za-z_]{4,}", text) if word != "tool"]


def _no_call(name: str, t: Target) -> None:
    """What begins like a call and is none comes back as content, all its words in it."""
    text, _ = NO_CALLS[name]
    found = message(t.chat(t.prompts.raw(text), tools=[function()], max_tokens=512).ok())
    expect(not found.maybe("tool_calls").raw, "no tool_calls", found.raw)
    content = found.at("content").text()
    for word in _words(text.replace("calls", "")):
        expect(word in content, f"{word!r} in the content", content)


def broken_arguments(t: Target) -> None:
    """As content or as arguments: nothing that the model wrote is lost."""
    for text in BROKEN:
        found = message(t.chat(t.prompts.raw(text), tools=[function()], max_tokens=512).ok())
        whole = " ".join(found.strings())
        for word in ("get_weather", "city", "Texas"):
            expect(word in whole, f"{word!r} in the message", found.raw)


def broken_stream(t: Target) -> None:
    for text in (BROKEN[1], NO_CALLS["no-json"][0]):
        fields: dict[str, object] = {"tools": [function()], "max_tokens": 512}
        stream = t.stream(t.prompts.raw(text), **fields)
        plain = message(t.chat(t.prompts.raw(text), **fields).ok())
        expect_equal(stream.content, plain.maybe("content").raw or "", "the streamed content")
        calls = [] if plain.maybe("tool_calls").null else plain.at("tool_calls").items()
        pairs = [(c.at("function", "name").raw, c.at("function", "arguments").raw) for c in calls]
        expect_equal(stream.calls(), pairs, "the streamed calls")


SECTION = Section(
    "tools",
    "Tools",
    (
        Check("tools.accepted", "a request may offer tools", accepted),
        Check("tools.called", "the scripted model's call arrives as tool_calls", offered,
              ("scripted",)),
        Check("tools.shape", "a call has id, type, name and arguments", shape, ("tools",)),
        Check("tools.id", "ids look like call_00_…", id_form, ("tools",)),
        Check("tools.finish", "finish_reason is tool_calls", finish, ("tools",)),
        Check("tools.markup", "the model's markup is not in content", no_markup, ("tools",)),
        Check("tools.arguments", "name and arguments arrive", arguments, ("tools",)),
        Check("tools.nested", "arguments of every kind arrive unchanged", nested_arguments,
              ("tools", "scripted")),
        Check("tools.no-arguments", "empty arguments are {}", no_arguments, ("tools", "scripted")),
        Check("tools.usage", "usage obeys the sums", usage, ("tools",)),
        Check("tools.counted", "definitions count as prompt", tools_are_read),
        Check("tools.text-first", "text before a call is kept", text_and_call,
              ("tools", "scripted")),
        Check("tools.stream-first", "streamed: the first fragment has index, id, type and name",
              first_fragment, ("tools",)),
        Check("tools.stream-later", "streamed: later fragments have index and arguments only",
              later_fragments, ("tools",)),
        Check("tools.stream-equals-plain", "streamed: the fragments add up to the plain call",
              stream_equals_plain, ("tools", "scripted")),
        Check("tools.stream-finish", "streamed: finish_reason is tool_calls", stream_finish,
              ("tools",)),
        Check("tools.stream-order", "streamed: content before calls", stream_order,
              ("tools", "scripted")),
        Check("tools.parallel", "two calls in one answer", parallel, ("tools",)),
        Check("tools.parallel-stream", "streamed: two calls, told apart by index",
              parallel_stream, ("tools",)),
        Check("tools.none", "tool_choice none: no calls", choice_none),
        Check("tools.auto", "tool_choice auto: words are allowed", choice_auto),
        Check("tools.required", "tool_choice required: a call", choice_required),
        Check("tools.named", "tool_choice names a function: that one is called", choice_named),
        Check("tools.named-unknown", "tool_choice names nobody: refused",
              partial(_refused, {"tools": [function()], "tool_choice": OTHER})),
        Check("tools.choice-type", "an unknown tool_choice is refused",
              partial(_refused, {"tools": [function()], "tool_choice": "perhaps"})),
        Check("tools.choice-alone", "tool_choice required without tools is refused",
              partial(_refused, {"tool_choice": "required"})),
        Check("tools.parameters", "parameters that are no object are refused",
              partial(_refused, {"tools": [function(parameters="x")]})),
        Check("tools.result", "a tool's result is read", result),
        Check("tools.result-alone", "a conversation with results may go on without tools",
              result_without_tools),
        Check("tools.orphan-result", "a result without a call is refused",
              partial(_bad_conversation, [USER, RESULT])),
        Check("tools.missing-result", "a call without its result is refused",
              partial(_bad_conversation, [USER, CALLED, USER])),
        Check("tools.wrong-result", "a result for another id is refused",
              partial(_bad_conversation, [USER, CALLED, RESULT | {"tool_call_id": "call_99_x"}])),
        *(
            Check(f"tools.{name}", f"what begins like a call and has {what} is text",
                  partial(_no_call, name), ("scripted", "tools"))
            for name, (_, what) in NO_CALLS.items()
        ),
        Check("tools.broken", "arguments that break are not lost", broken_arguments,
              ("scripted", "tools")),
        Check("tools.broken-stream", "streamed: what is no call, the same as plain",
              broken_stream, ("scripted", "tools")),
    ),
)  # fmt: skip
