"""The Responses surface: items, events in sequence, statelessness (contract 10)."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.json_value import Value
from tribody.conformance.target import WEATHER, Target
from tribody.conformance.verdict import expect, expect_equal
from tribody.conformance.wire import Answer, EventStream

TEXT = "The sky is blue."
TOOL = {"type": "function", "name": "get_weather", "description": "The weather of a city.",
        "parameters": WEATHER}  # fmt: skip


def send(t: Target, given: object, **fields: object) -> Answer:
    body: dict[str, object] = {"model": t.model, "input": given, "max_output_tokens": 200}
    if t.profile == "2026":
        body["reasoning"] = {"effort": "none"}
    payload = {name: value for name, value in (body | fields).items() if value is not ...}
    return t.client.send("POST", t.path("responses"), payload=payload)


def _plain(t: Target) -> Value:
    return t.keep("responses", lambda: send(t, t.prompts.say(TEXT), temperature=0).ok())


def _stream(t: Target, given: object, **fields: object) -> EventStream:
    return EventStream.read(send(t, given, stream=True, **fields).expect_status(200).body)


def _streamed(t: Target) -> EventStream:
    ask = t.prompts.say(TEXT)
    return t.keep("responses stream", lambda: _stream(t, ask, temperature=0))


def _items(answer: Value, kind: str) -> list[Value]:
    return [item for item in answer.at("output").items() if item.at("type").raw == kind]


def text_of(answer: Value) -> str:
    return "".join(
        part.at("text").text()
        for item in _items(answer, "message")
        for part in item.at("content").items()
        if part.at("type").raw == "output_text"
    )


def _of_type(stream: EventStream, kind: str) -> list[Value]:
    return [event for event in stream.payloads if event.at("type").raw == kind]


# --- plain -----------------------------------------------------------------------------------


def shape(t: Target) -> None:
    answer = _plain(t)
    answer.at("object").is_("response")
    answer.at("status").is_("completed")
    expect(answer.at("id").text(), "an id", "an empty one")
    answer.at("created_at").number()
    answer.at("model").text()
    expect(answer.maybe("error").null, "error null", answer.maybe("error").raw)


def demanded_fields(t: Target) -> None:
    """OpenAI's clients validate them: a response without is refused by a strict one."""
    answer = _plain(t)
    answer.at("tools").items()
    answer.at("parallel_tool_calls").boolean()
    expect(answer.has("tool_choice"), "tool_choice", list(answer.fields()))


def message_item(t: Target) -> None:
    item = _items(_plain(t), "message")[0]
    item.at("role").is_("assistant")
    item.at("status").is_("completed")
    item.at("id").text()
    part = item.at("content", 0)
    part.at("type").is_("output_text")
    part.at("annotations").items()


def text(t: Target) -> None:
    found = text_of(_plain(t))
    t.obeyed(found.strip() == TEXT, repr(TEXT), repr(found))


def usage(t: Target) -> None:
    found = _plain(t).at("usage")
    given, made = found.at("input_tokens").integer(), found.at("output_tokens").integer()
    found.at("total_tokens").is_(given + made)
    found.at("input_tokens_details", "cached_tokens").integer()
    found.at("output_tokens_details", "reasoning_tokens").integer()


def not_stored(t: Target) -> None:
    found = _plain(t).maybe("store")
    expect(found.raw in (None, False), "store false", found.raw)


def stateless(t: Target) -> None:
    """An answer cannot be asked for again."""
    path = f"{t.path('responses')}/{_plain(t).at('id').text()}"
    t.client.send("GET", path).expect_status(404, 405)


def ignored(t: Target) -> None:
    """What is not supported is ignored, as documented."""
    fields: dict[str, object] = {"store": True, "metadata": {"a": "b"}, "truncation": "auto",
                                 "service_tier": "auto", "prompt_cache_key": "k",
                                 "previous_response_id": "resp_nobody"}  # fmt: skip
    answer = send(t, t.prompts.say("Yes."), **fields).ok()
    expect(answer.maybe("store").raw in (None, False), "store false all the same", answer.raw)


def items_in(t: Target) -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user",
         "content": [{"type": "input_text", "text": t.prompts.say("Yes.")}]},
    ]  # fmt: skip
    found = text_of(send(t, given, temperature=0).ok())
    t.obeyed(found.strip() == "Yes.", "Yes.", repr(found))


def instructions(t: Target) -> None:
    bare = send(t, t.prompts.say("Yes.")).ok().at("usage", "input_tokens").integer()
    full = send(t, t.prompts.say("Yes."), instructions="Be brief and friendly.").ok()
    found = full.at("usage", "input_tokens").integer()
    expect(found > bare, f"more than {bare} input tokens with instructions", found)


def earlier_turns(t: Target) -> None:
    given = [
        {"role": "user", "content": "Hello."},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]},
        {"role": "user", "content": t.prompts.say("Yes.")},
    ]  # fmt: skip
    found = text_of(send(t, given, temperature=0).ok())
    t.obeyed(found.strip() == "Yes.", "Yes.", repr(found))


def incomplete(t: Target) -> None:
    answer = send(t, t.prompts.count(60), max_output_tokens=16).ok()
    answer.at("status").is_("incomplete")
    answer.at("incomplete_details", "reason").is_("max_output_tokens")
    used = answer.at("usage", "output_tokens").integer()
    expect(used <= 16, "at most 16 output tokens", used)


# --- stream ----------------------------------------------------------------------------------


def sequence(t: Target) -> None:
    numbers = [event.at("sequence_number").integer() for event in _streamed(t).payloads]
    expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no gaps", numbers)
    expect(numbers[0] in (0, 1), "a sequence from 0", numbers[0])


def event_names(t: Target) -> None:
    stream = _streamed(t)
    for event, payload in zip(stream.events, stream.payloads, strict=True):
        kind = payload.at("type").raw
        expect(event.name == kind, f"the line event: {kind}", event.name or "none")


ORDER = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
)


def event_order(t: Target) -> None:
    kinds = [event.at("type").text() for event in _streamed(t).payloads]
    firsts = list(dict.fromkeys(kinds))
    expect_equal(firsts, list(ORDER), "the types of the events, in order")
    expect(kinds[-1] == ORDER[-1], "response.completed last", kinds[-1])


def no_done(t: Target) -> None:
    found = [event.data for event in _streamed(t).events if event.data == "[DONE]"]
    expect(not found, "no [DONE] on this surface", found)


def stream_text(t: Target) -> None:
    stream, plain = _streamed(t), text_of(_plain(t))
    deltas = _of_type(stream, "response.output_text.delta")
    expect_equal("".join(event.at("delta").text() for event in deltas), plain, "the deltas")
    expect_equal(_of_type(stream, "response.output_text.done")[0].at("text").raw, plain, "done")


def stream_whole(t: Target) -> None:
    """The last event carries the complete response."""
    last = _streamed(t).payloads[-1].at("response")
    expect_equal(text_of(last), text_of(_plain(t)), "the text of the last event")
    last.at("status").is_("completed")
    expect_equal(last.at("usage", "output_tokens").raw,
                 _plain(t).at("usage", "output_tokens").raw, "output_tokens")  # fmt: skip


def stream_ids(t: Target) -> None:
    """Deltas name the item that was added."""
    stream = _streamed(t)
    item = _of_type(stream, "response.output_item.added")[0].at("item", "id").text()
    for event in _of_type(stream, "response.output_text.delta"):
        event.at("item_id").is_(item)
        event.at("output_index").is_(0)
        event.at("content_index").is_(0)


def stream_incomplete(t: Target) -> None:
    last = _stream(t, t.prompts.count(60), max_output_tokens=16).payloads[-1]
    last.at("type").is_("response.incomplete")
    last.at("response", "incomplete_details", "reason").is_("max_output_tokens")


# --- tools and reasoning ---------------------------------------------------------------------


def _called(t: Target) -> Value:
    ask = t.prompts.call("get_weather", {"city": "Paris"})
    answer = t.keep("responses call", lambda: send(t, ask, tools=[TOOL], temperature=0).ok())
    t.obeyed(_items(answer, "function_call"), "a function_call item", answer.at("output").raw)
    return answer


def function_call(t: Target) -> None:
    item = _items(_called(t), "function_call")[0]
    item.at("name").is_("get_weather")
    expect(item.at("call_id").text(), "a call_id", "an empty one")
    item.at("id").text()
    found = item.at("arguments").decoded()
    t.obeyed(found.raw == {"city": "Paris"}, "the city Paris", found.raw)


def function_stream(t: Target) -> None:
    expected = _items(_called(t), "function_call")[0].at("arguments").text()
    ask = t.prompts.call("get_weather", {"city": "Paris"})
    stream = _stream(t, ask, tools=[TOOL], temperature=0)
    deltas = _of_type(stream, "response.function_call_arguments.delta")
    expect_equal("".join(event.at("delta").text() for event in deltas), expected, "the deltas")
    done = _of_type(stream, "response.function_call_arguments.done")
    expect(done, "response.function_call_arguments.done", "none")
    expect_equal(done[0].at("arguments").raw, expected, "the arguments when done")


def function_output(t: Target) -> None:
    given = [
        {"role": "user", "content": "Weather in Paris?"},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather",
         "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"role": "user", "content": t.prompts.say("It is sunny.")},
    ]  # fmt: skip
    found = text_of(send(t, given, tools=[TOOL], temperature=0).ok())
    t.obeyed(found.strip() == "It is sunny.", "the text", repr(found))


def reasoning(t: Target) -> None:
    ask = t.prompts.think("Hm, five.", "Five.")
    fields: dict[str, object] = {"reasoning": {"effort": "high"}, "max_output_tokens": 400}
    if t.profile == "2025":
        fields = {"model": t.reasoner}
    answer = send(t, ask, **fields).ok()
    kinds = [item.at("type").raw for item in answer.at("output").items()]
    t.obeyed("reasoning" in kinds, "a reasoning item", kinds)
    expect(kinds[0] == "reasoning", "the reasoning item first", kinds)
    count = answer.at("usage", "output_tokens_details", "reasoning_tokens").integer()
    expect(count > 0, "reasoning_tokens", count)
    stream = _stream(t, ask, **fields)
    deltas = _of_type(stream, "response.reasoning_text.delta")
    expect(deltas, "response.reasoning_text.delta", "none")


def schema(t: Target) -> None:
    described = {"type": "json_schema", "name": "w", "schema": WEATHER, "strict": True}
    ask = t.prompts.say('{"city": "Rome"}')
    answer = t.needs_200(send(t, ask, text={"format": described}), "text.format").json()
    found = Value(text_of(answer), "the text").decoded()
    found.at("city").text()


def _refused(fields: dict[str, object], t: Target) -> None:
    answer = send(t, "Hello.", **fields)
    expect(answer.status in (400, 404, 422), "400, 404 or 422", answer.status)
    answer.json().at("error", "message").text()


SECTION = Section(
    "responses",
    "Responses",
    (
        *(
            Check(f"responses.{name}", title, run, ("responses",))
            for name, title, run in (
                ("shape", "a completed response object", shape),
                ("fields", "tools, tool_choice and parallel_tool_calls are there", demanded_fields),
            ("message", "a message item with output_text", message_item),
                ("text", "the text is there", text),
                ("usage", "usage with both details", usage),
                ("store", "store is false", not_stored),
                ("stateless", "an answer cannot be fetched again", stateless),
                ("ignored", "unsupported fields are ignored", ignored),
                ("items", "input may be items; developer is read", items_in),
                ("instructions", "instructions are read", instructions),
                ("turns", "earlier turns may be sent back", earlier_turns),
                ("incomplete", "max_output_tokens: incomplete", incomplete),
                ("sequence", "streamed: sequence_number without gaps", sequence),
                ("event-names", "streamed: event: names the type", event_names),
                ("event-order", "streamed: every event of an answer, in order", event_order),
                ("no-done", "streamed: no [DONE]", no_done),
                ("stream-text", "streamed: the same text", stream_text),
                ("stream-whole", "streamed: the last event has it all", stream_whole),
                ("stream-ids", "streamed: deltas name their item", stream_ids),
                ("stream-incomplete", "streamed: response.incomplete", stream_incomplete),
                ("call", "a call is a function_call item", function_call),
                ("call-stream", "streamed: the arguments add up", function_stream),
                ("call-output", "a function_call_output is read", function_output),
                ("schema", "text.format json_schema is obeyed", schema),
                ("no-input", "no input is refused", partial(_refused, {"input": ...})),
                ("input-type", "input of another type is refused", partial(_refused, {"input": 5})),
                ("unknown-model", "an unknown model is refused",
                 partial(_refused, {"model": "no-such-model"})),
                ("bad-max", "max_output_tokens 0 is refused",
                 partial(_refused, {"max_output_tokens": 0})),
                ("temperature", "temperature beyond 2 is refused",
                 partial(_refused, {"temperature": 2.5})),
            )
        ),
        Check("responses.reasoning", "reasoning is an item and streams its text", reasoning,
              ("responses", "thinking")),
    ),
)  # fmt: skip
