"""The fields of a chat request: types, limits on both sides, combinations (contract 2)."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import ONLY_2025, ONLY_2026, Check, Section
from tribody.conformance.target import Target, function
from tribody.conformance.verdict import expect

Fields = dict[str, object]
USER: Fields = {"role": "user", "content": "Hello."}


def _accepts(fields: tuple[Fields, ...], t: Target) -> None:
    for one in fields:
        t.chat(t.prompts.say("Yes."), **one).expect_status(200)


def _refuses(fields: tuple[Fields, ...], t: Target) -> None:
    for one in fields:
        answer = t.chat(t.prompts.say("No."), **one)
        given = ", ".join(f"no {k}" if v is ... else f"{k} {v!r}" for k, v in one.items())
        expect(answer.status in (400, 422), f"400 or 422 for {given}", answer.status)


def _refuses_messages(conversations: tuple[object, ...], t: Target) -> None:
    for messages in conversations:
        answer = t.post(t.body("") | {"messages": messages})
        expect(answer.status in (400, 422), f"400 or 422 for messages {messages!r}", answer.status)


def _says(messages: list[dict[str, object]], t: Target) -> None:
    """The conversation is accepted and the model answers it."""
    t.chat(messages).ok().at("choices", 0, "message", "role").is_("assistant")


# Both sides of every number: (refused below, least, most, refused above); None = no such side.
NUMBERS: dict[str, tuple[object, ...]] = {
    "temperature": (-0.01, 0, 2, 2.01),
    "top_p": (-0.01, 0.01, 1, 1.01),
    "frequency_penalty": (-2.01, -2, 2, 2.01),
    "presence_penalty": (-2.01, -2, 2, 2.01),
    "max_tokens": (0, 1, 64, None),
}


def _limits(name: str, t: Target) -> None:
    below, least, most, above = NUMBERS[name]
    for value in (least, most):
        answer = t.chat(t.prompts.say("Yes."), **{name: value})
        expect(answer.status == 200, f"200 for {name}={value}", answer.status)
    for value in (below, above):
        if value is not None:
            answer = t.chat(t.prompts.say("No."), **{name: value})
            expect(answer.status in (400, 422), f"400 or 422 for {name}={value}", answer.status)


def top_logprobs(t: Target) -> None:
    ask = t.prompts.say("Yes.")
    for value in (0, 20):
        t.needs_200(t.chat(ask, logprobs=True, top_logprobs=value), f"top_logprobs={value}")
    for value in (-1, 21):
        answer = t.chat(ask, logprobs=True, top_logprobs=value)
        expect(answer.status in (400, 422), f"400 or 422 for top_logprobs={value}", answer.status)


def stop_count(t: Target) -> None:
    ask = t.prompts.say("Yes.")
    t.chat(ask, stop=[f"#{i}#" for i in range(16)]).expect_status(200)
    t.chat(ask, stop=[f"#{i}#" for i in range(17)]).refused()


def tool_count(t: Target) -> None:
    ask = t.prompts.say("Yes.")
    tools = [function(f"f{i}", parameters={"type": "object", "properties": {}}) for i in range(129)]
    answer = t.chat(ask, tools=tools[:128])
    long = "maximum context" in answer.message  # a small model's context is its own limit
    expect(answer.status == 200 or long, "200 for 128 tools", answer.status)
    t.chat(ask, tools=tools).refused()


def tool_names(t: Target) -> None:
    ask = t.prompts.say("Yes.")
    t.chat(ask, tools=[function("a-Z_09" + "x" * 58)]).expect_status(200)
    for name in ("x" * 65, "", "with space", "dot.name", "名"):
        answer = t.chat(ask, tools=[function(name)])
        expect(answer.status in (400, 422), f"400 or 422 for the name {name!r}", answer.status)


def user_id(t: Target) -> None:
    ask = t.prompts.say("Yes.")
    t.chat(ask, user_id="u" * 512).expect_status(200)
    t.chat(ask, user_id="u" * 513).refused()
    t.chat(ask, user_id=7).refused()


def max_tokens_is_obeyed(t: Target) -> None:
    answer = t.chat(t.prompts.count(40), max_tokens=5).ok()
    used = answer.at("usage", "completion_tokens").integer()
    expect(used <= 5, "at most 5 completion tokens", used)
    t.obeyed(used == 5, "exactly 5 completion tokens", used)
    found = answer.at("choices", 0, "finish_reason").text()
    t.obeyed(found == "length", "finish_reason length", found)


def max_tokens_beyond_context(t: Target) -> None:
    answer = t.chat(t.prompts.say("No."), max_tokens=393_217)
    answer.refused()


def max_tokens_of_v3(t: Target) -> None:
    t.chat(t.prompts.say("Yes."), max_tokens=8192).expect_status(200)
    t.chat(t.prompts.say("No."), max_tokens=8193).refused()


def max_completion_tokens(t: Target) -> None:
    answer = t.chat(t.prompts.count(40), max_tokens=..., max_completion_tokens=5).ok()
    used = answer.at("usage", "completion_tokens").integer()
    expect(used <= 5, "at most 5 completion tokens", used)


def _stops(stop: object, t: Target) -> None:
    answer = t.chat(t.prompts.say("one two three four"), stop=stop, temperature=0).ok()
    content = answer.at("choices", 0, "message", "content").text()
    expect("three" not in content, "no text of the stop string", content)
    t.obeyed(content == "one two ", "the text before the stop string", repr(content))
    answer.at("choices", 0, "finish_reason").is_("stop")


def text_parts(t: Target) -> None:
    words = t.prompts.say("Parts.")
    half = len(words) // 2
    parts = [{"type": "text", "text": words[:half]}, {"type": "text", "text": words[half:]}]
    answer = t.chat([{"role": "user", "content": parts}], temperature=0).ok()
    content = answer.at("choices", 0, "message", "content").text()
    t.obeyed(content == "Parts." or not t.scripted, "the parts read as one text", repr(content))


def image_for_text_model(t: Target) -> None:
    """Whoever cannot see says so; nothing is dropped in silence."""
    url = "data:image/png;base64,iVBORw0KGgo="
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = t.chat([{"role": "user", "content": [part]}])
    expect(answer.status in (400, 415, 422), "400, 415 or 422 for a broken image", answer.status)


def unknown_field(t: Target) -> None:
    t.chat(t.prompts.say("Yes."), a_field_nobody_knows={"x": 1}).expect_status(200)


def same_seed(t: Target) -> None:
    ask = t.prompts.count(12)
    one, other = (t.chat(ask, temperature=1, seed=7, max_tokens=12).ok() for _ in range(2))
    at = ("choices", 0, "message", "content")
    same = one.at(*at).raw == other.at(*at).raw
    t.obeyed(same, "the same answer with the same seed", f"{one.at(*at).raw!r} and another")


def several_choices(t: Target) -> None:
    answer = t.needs_200(t.chat(t.prompts.say("Two."), n=2), "n=2").json()
    indexes = sorted(c.at("index").integer() for c in answer.at("choices").items())
    expect(indexes == [0, 1], "choices 0 and 1 for n=2", indexes)


NULLS: Fields = dict.fromkeys(
    ["temperature", "top_p", "stop", "tools", "stream", "response_format", "logprobs",
     "frequency_penalty", "stream_options", "tool_choice"]
)  # fmt: skip
CLIENTS_SEND: tuple[Fields, ...] = (
    {"seed": 1},
    {"user": "someone"},
    {"logit_bias": {}},
    {"response_format": {"type": "text"}},
    {"parallel_tool_calls": True, "tools": [function()]},
    {"n": 1},
    {"metadata": {"a": "b"}},
    {"store": False},
    {"service_tier": "auto"},
)  # what SDKs and frameworks put into a request
EFFORTS = ("low", "high", "max", "minimal", "medium", "xhigh")
CALL = {"id": "call_00_x", "type": "function", "function": {"name": "f", "arguments": "{}"}}

HI: Fields = {"role": "assistant", "content": "Hi."}
MANY_TURNS: list[Fields] = [*([USER, HI] * 6), USER]

SECTION = Section(
    "request",
    "Request fields",
    (
        *(
            Check(f"request.{name.replace('_', '-')}",
                  f"{name}: least and most accepted, beyond refused", partial(_limits, name))
            for name in NUMBERS
        ),
        Check("request.max-tokens-obeyed", "max_tokens=5 ends after 5 tokens: length",
              max_tokens_is_obeyed),
        Check("request.max-tokens-beyond", "max_tokens=393,217 is refused",
              max_tokens_beyond_context),
        Check("request.max-tokens-v3", "max_tokens: 8,192 accepted without thinking, 8,193 refused",
              max_tokens_of_v3, profiles=ONLY_2025),
        Check("request.max-completion-tokens", "max_completion_tokens is max_tokens",
              max_completion_tokens),
        Check("request.top-logprobs", "top_logprobs: 0 and 20 accepted, -1 and 21 refused",
              top_logprobs),
        Check("request.top-logprobs-alone", "top_logprobs without logprobs is refused",
              partial(_refuses, ({"top_logprobs": 3},))),
        Check("request.stop-count", "16 stop strings accepted, 17 refused", stop_count),
        Check("request.stop-string", "a stop string ends the answer and is not in it",
              partial(_stops, "three")),
        Check("request.stop-list", "so does one of a list", partial(_stops, ["@@", "three"])),
        Check("request.stop-type", "stop of another type is refused",
              partial(_refuses, ({"stop": 3}, {"stop": [3]}, {"stop": {"a": 1}}))),
        Check("request.tools-count", "128 tools accepted, 129 refused", tool_count),
        Check("request.tool-names", "tool names: 64 of [a-zA-Z0-9_-] accepted, others refused",
              tool_names),
        Check("request.user-id", "user_id: 512 characters accepted, 513 refused", user_id,
              profiles=ONLY_2026),
        Check("request.model-missing", "no model, null or a number for it is refused",
              partial(_refuses, ({"model": ...}, {"model": None}, {"model": 7}))),
        Check("request.messages-missing", "no messages, none in the list or no list is refused",
              partial(_refuses_messages, (None, [], "Hello.", {"role": "user"}, [None], ["x"]))),
        Check("request.role", "a missing or unknown role is refused",
              partial(_refuses_messages, ([{"content": "x"}], [USER | {"role": "robot"}],
                                          [USER | {"role": 1}], [USER | {"role": None}]))),
        Check("request.content-type", "content of another type is refused",
              partial(_refuses_messages, ([USER | {"content": 5}], [USER | {"content": {"a": 1}}],
                                          [{"role": "user"}], [USER | {"content": [7]}]))),
        Check("request.empty-assistant", "an assistant message with nothing in it is refused",
              partial(_refuses_messages, ([USER, {"role": "assistant"}, USER],
                                          [USER, {"role": "assistant", "content": None}, USER]))),
        Check("request.tool-without-id", "a tool message without tool_call_id is refused",
              partial(_refuses_messages,
                      ([USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                        {"role": "tool", "content": "1"}],))),
        Check("request.numbers-in-strings", "a number in a string is refused",
              partial(_refuses, ({"temperature": "1"}, {"max_tokens": "5"}, {"top_p": "NaN"}))),
        Check("request.bool-for-number", "true for a number is refused",
              partial(_refuses, ({"max_tokens": True}, {"temperature": True}))),
        Check("request.fraction", "a fraction for a whole number is refused",
              partial(_refuses, ({"max_tokens": 1.5}, {"top_logprobs": 0.5, "logprobs": True}))),
        Check("request.huge", "numbers beyond 64 bits are refused",
              partial(_refuses, ({"max_tokens": 2**63}, {"max_tokens": 2**200},
                                 {"temperature": 1e300}))),
        Check("request.stream-type", "stream of another type is refused",
              partial(_refuses, ({"stream": "yes"}, {"stream": 1}))),
        Check("request.stream-options", "stream_options without stream is refused",
              partial(_refuses, ({"stream_options": {"include_usage": True}},))),
        Check("request.response-format", "an unknown response_format is refused",
              partial(_refuses, ({"response_format": {"type": "yaml"}}, {"response_format": 1},
                                 {"response_format": {}}))),
        Check("request.tools-type", "tools that are none are refused",
              partial(_refuses, ({"tools": "f"}, {"tools": [{}]}, {"tools": [1]},
                                 {"tools": [{"type": "function"}]}))),
        Check("request.nulls", "null means not given", partial(_accepts, (NULLS,))),
        Check("request.clients", "what clients send besides is tolerated",
              partial(_accepts, CLIENTS_SEND)),
        Check("request.unknown", "an unknown field is tolerated", unknown_field),
        Check("request.n", "n=2 gives two choices", several_choices),
        Check("request.seed", "the same seed gives the same answer", same_seed),
        Check("request.system", "system messages",
              partial(_says, [{"role": "system", "content": "Be brief."}, USER])),
        Check("request.developer", "developer messages",
              partial(_says, [{"role": "developer", "content": "Be brief."}, USER])),
        Check("request.names", "name on system, user and assistant messages",
              partial(_says, [{"role": "system", "content": "Be brief.", "name": "a"},
                              USER | {"name": "b"},
                              {"role": "assistant", "content": "Hi.", "name": "c"}, USER])),
        Check("request.many-turns", "a conversation of many turns",
              partial(_says, MANY_TURNS)),
        Check("request.parts", "content may be a list of text parts", text_parts),
        Check("request.image", "a broken image is refused, not dropped", image_for_text_model),
        Check("request.thinking-type", "an unknown thinking.type is refused",
              partial(_refuses, ({"thinking": {"type": "perhaps"}}, {"thinking": "enabled"},
                                 {"thinking": {"type": 1}})), profiles=ONLY_2026),
        Check("request.thinking-null", "thinking may be null",
              partial(_accepts, ({"thinking": None},))),
        Check("request.effort", "reasoning_effort: every documented value and alias",
              partial(_accepts, tuple({"reasoning_effort": e} for e in EFFORTS)),
              profiles=ONLY_2026),
        Check("request.effort-unknown", "an unknown reasoning_effort is refused",
              partial(_refuses, ({"reasoning_effort": "heroic"}, {"reasoning_effort": 3})),
              profiles=ONLY_2026),
    ),
)  # fmt: skip
