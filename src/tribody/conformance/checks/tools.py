"""Function calls: shape, fragments, choice, round trips, strict schemas (contract 2, 4, 6)."""

from __future__ import annotations

import json
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


def _calls(answer: Value) -> list[Value]:
    return message(answer).at("tool_calls").items()


def _arguments(call: Value) -> object:
    return call.at("function", "arguments").decoded().raw


def accepted(t: Target) -> None:
    t.chat(t.prompts.say("Yes."), tools=[function()]).ok()


def offered(t: Target) -> None:
    """Where this fails, the checks that need a call are skipped."""
    expect(message(t.called()).maybe("tool_calls").raw, "tool_calls", message(t.called()).raw)


def shape(t: Target) -> None:
    call = _calls(t.called())[0]
    call.at("type").is_("function")
    expect(call.at("id").text(), "an id", "an empty one")
    call.at("function", "name").text()
    call.at("function", "arguments").text()


def id_form(t: Target) -> None:
    found = _calls(t.called())[0].at("id").text()
    expect(CALL_ID.fullmatch(found), "an id like call_00_ and 24 characters", found)


def finish(t: Target) -> None:
    t.called().at("choices", 0, "finish_reason").is_("tool_calls")


def no_markup(t: Target) -> None:
    """The model's own markup of calls is not left in the content."""
    content = message(t.called()).maybe("content").raw or ""
    expect("tool" not in str(content) and "<" not in str(content), "no markup", content)


def arguments(t: Target) -> None:
    call = _calls(t.called())[0]
    t.obeyed(call.at("function", "name").raw == "get_weather", "get_weather called", call.raw)
    t.obeyed(_arguments(call) == PARIS, f"the arguments {PARIS!r}", call.raw)


def nested_arguments(t: Target) -> None:
    tool = function("store", parameters={"type": "object", "properties": {}})
    answer = t.chat(t.prompts.call("store", NESTED), tools=[tool], max_tokens=512).ok()
    expect_equal(_arguments(_calls(answer)[0]), NESTED, "the arguments")


def no_arguments(t: Target) -> None:
    tool = function("now", parameters={"type": "object", "properties": {}})
    answer = t.chat(t.prompts.call("now", {}), tools=[tool]).ok()
    expect_equal(_arguments(_calls(answer)[0]), {}, "the arguments")


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
    expect_equal(len(_calls(found)), 1, "the number of calls")


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
    plain = _calls(t.called())
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
    calls = _calls(t.chat(t.prompts.calls(*TWO), tools=BOTH_TOOLS, max_tokens=256).ok())
    t.obeyed(len(calls) == 2, "two calls", len(calls))
    ids = {call.at("id").text() for call in calls}
    expect(len(ids) == 2, "two ids", ids)
    found = [(call.at("function", "name").raw, _arguments(call)) for call in calls]
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
    calls = _calls(answer)
    expect(calls, "at least one call", "none")
    name = calls[0].at("function", "name").raw
    expect(name in ("get_weather", "get_time"), "one of the functions", name)


def choice_named(t: Target) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    fields: dict[str, object] = {"tools": BOTH_TOOLS, "tool_choice": choice}
    answer = t.needs_200(t.chat("Hello.", max_tokens=256, **fields), "a named choice").json()
    names = [call.at("function", "name").raw for call in _calls(answer)]
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
MALFORMED = (
    f'{BEGIN}get_weather<｜tool▁sep｜>{{"city": "Par',
    f'{BEGIN}get_weather<｜tool▁sep｜>{{"city": oops}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    f"{BEGIN}get_weather",
    f"{BEGIN}no separator here<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
)


def _malformed(text: str, t: Target) -> None:
    """Its words come back as content: nothing that the model wrote is lost."""
    answer = t.chat(t.prompts.raw(text), tools=[function()], max_tokens=512).ok()
    found = message(answer)
    for call in [] if found.maybe("tool_calls").null else found.at("tool_calls").items():
        expect(isinstance(_arguments(call), dict), "calls with arguments that parse", call.raw)
    whole = json.dumps(found.raw, ensure_ascii=False)
    for word in re.findall(r"[A-Za-z_]{4,}", text.replace(BEGIN, "")):
        if word != "tool":
            expect(word in whole, f"{word!r} in the message", whole)


def malformed_stream(t: Target) -> None:
    stream = t.stream(t.prompts.raw(MALFORMED[1]), tools=[function()], max_tokens=512)
    expect("oops" in stream.content, "the words of the broken call as content", stream.content)


# --- strict ----------------------------------------------------------------------------------


def _schema(**more: object) -> dict[str, object]:
    """A strict schema with one property `x` of `more`."""
    return {
        "type": "object",
        "properties": {"x": more},
        "required": ["x"],
        "additionalProperties": False,
    }


def strict_accepted(t: Target) -> None:
    good = (
        _schema(type="string", pattern="^a+$"),
        _schema(type="string", format="email"),
        _schema(type="integer", minimum=1, maximum=9),
        _schema(type="string", enum=["a", "b"]),
        _schema(anyOf=[{"type": "string"}, {"type": "integer"}]),
        _schema(type="array", items={"type": "boolean"}),
    )
    for schema in good:
        tool = function("f", parameters=schema, strict=True)
        answer = t.beta(t.prompts.say("Yes."), tools=[tool])
        expect(answer.status == 200, f"200 for {schema['properties']!r}", answer.status)


STRICT_REFUSED = {
    "additional": ({"type": "object", "properties": {}, "required": []},
                   "additionalProperties left open"),
    "required": ({**_schema(type="string"), "required": []}, "a property that is not required"),
    "min-length": (_schema(type="string", minLength=2), "minLength"),
    "max-length": (_schema(type="string", maxLength=2), "maxLength"),
    "min-items": (_schema(type="array", items={"type": "string"}, minItems=1), "minItems"),
    "max-items": (_schema(type="array", items={"type": "string"}, maxItems=1), "maxItems"),
    "type": (_schema(type="strng"), "an unknown type"),
    "format": (_schema(type="string", format="color"), "an unknown format"),
    "nested": (_schema(type="object", properties={"y": {"type": "string"}}),
               "an open object inside"),
}  # fmt: skip


def _strict_refused(name: str, t: Target) -> None:
    tool = function("f", parameters=STRICT_REFUSED[name][0], strict=True)
    t.beta(t.prompts.say("No."), tools=[tool]).refused()


def strict_call(t: Target) -> None:
    """The arguments of a strict call obey the schema, whatever the model would have liked."""
    tool = function("pick", parameters=_schema(type="string", enum=["red", "blue"]), strict=True)
    choice = {"type": "function", "function": {"name": "pick"}}
    answer = t.beta("Pick a colour.", tools=[tool], tool_choice=choice, max_tokens=128)
    found = _arguments(_calls(t.needs_200(answer, "a named choice").json())[0])
    expect(found in ({"x": "red"}, {"x": "blue"}), "red or blue for x", found)


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
        Check("tools.cut-off", "a call that is cut off comes back as text",
              partial(_malformed, MALFORMED[0]), ("scripted",)),
        Check("tools.bad-json", "a call with broken JSON comes back as text",
              partial(_malformed, MALFORMED[1]), ("scripted",)),
        Check("tools.name-only", "a call without arguments comes back as text",
              partial(_malformed, MALFORMED[2]), ("scripted",)),
        Check("tools.no-separator", "a call without its separator comes back as text",
              partial(_malformed, MALFORMED[3]), ("scripted",)),
        Check("tools.bad-json-stream", "streamed: a broken call comes back as text",
              malformed_stream, ("scripted",)),
        Check("tools.strict", "strict schemas of the documented kinds are accepted",
              strict_accepted, ("beta",)),
        *(
            Check(f"tools.strict-{name}", f"strict: {what} is refused",
                  partial(_strict_refused, name), ("beta",))
            for name, (_, what) in STRICT_REFUSED.items()
        ),
        Check("tools.strict-call", "a strict call obeys its schema", strict_call, ("beta",)),
    ),
)  # fmt: skip
