"""The scripted engine: what it answers, by the rules of docs/scripted.md, through the real loop."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from tribody.core.config import EngineConfig, ScriptConfig
from tribody.core.errors import BadConfig
from tribody.core.request import Event, Request, SamplingParams, StepPlan
from tribody.engine.client import EngineClient, Patience
from tribody.engine.engine import Engine
from tribody.engine.scripted import REQUESTS_KNOWN, ScriptedExecutor, build_scripted
from tribody.engine.scripted_arguments import Filler
from tribody.engine.scripted_following import Followed, Order
from tribody.engine.scripted_text import TEMPLATE, read, tokenizer_source
from tribody.text.chat_template import ChatTemplate
from tribody.text.grammar import (
    ANY_OBJECT,
    grammar_of,
    json_rule,
    json_schema_answer,
)
from tribody.text.special_tokens import special_token_strings
from tribody.text.template_engine import TemplateEngine
from tribody.text.tokenizer import Tokenizer
from tribody.text.tool_calls import CallArguments, CallStart
from tribody.text.tool_formats.formats import tool_parser
from tribody.text.tool_formats.grammar import CallableTool, tool_answer
from tribody.text.tool_messages import ToolUse

SOURCE = tokenizer_source()
TOKENIZER = Tokenizer.from_source(SOURCE)
CHAT = ChatTemplate(TemplateEngine(TEMPLATE), special_token_strings(SOURCE))
CONFIG = EngineConfig(model_path="scripted")
CALLS = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
CALL = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"


def tool(name: str, **properties: object) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool("get_weather", city={"type": "string"})
ADD = tool("add", a={"type": "integer"}, b={"type": "number"})


def prompt(*messages: Mapping[str, object] | str, thinking: bool = False, **more: object) -> str:
    """The rendered prompt; a plain string is the user's."""
    listed = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return CHAT.prompt(listed, thinking=thinking, **more)  # type: ignore[arg-type]


def request(text: str, name: str = "r", n: int = 1, **sampling: object) -> Request:
    settings = {"max_tokens": 4096} | sampling
    return Request(
        id=name,
        prompt_token_ids=TOKENIZER.encode(text, add_special_tokens=False),
        sampling=SamplingParams(**settings),  # type: ignore[arg-type]
        n=n,
    )


def engine(config: EngineConfig = CONFIG, script: ScriptConfig | None = None) -> Engine:
    return build_scripted(config, script or ScriptConfig())[0]


def events(wanted: Request, running: Engine | None = None) -> list[Event]:
    running = running or engine()
    running.submit(wanted)
    found: list[Event] = []
    while running.has_work():
        found += running.step()
    running.check()
    return found


def text_of(found: list[Event], choice: int = 0) -> str:
    ids = [i for event in found if event.choice == choice for i in event.token_ids]
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def answer(*messages: Mapping[str, object] | str, **more: object) -> str:
    return text_of(events(request(prompt(*messages, **more))))  # type: ignore[arg-type]


# --- the prompt and back ---------------------------------------------------------------------


def test_a_conversation_is_read_back_as_it_was() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": 'Be "brief".\n<｜Assistant｜></think>'},
        {"role": "user", "content": "你好\n{}", "name": "ann"},
        {"role": "assistant", "content": "line\nline"},
        {"role": "user", "content": "<｜begin▁of▁sentence｜> \\n \u2028 😀"},
    ]
    found = read(prompt(*messages, tools=[WEATHER], thinking=True))
    assert found.messages == [m for m in messages if m["role"] != "assistant"]
    assert found.last_turn == messages[-1:]
    assert found.tools == [WEATHER["function"]]
    assert (found.role, found.thinking, found.begun) == ("user", True, "")


def test_token_ids_lose_nothing_of_a_prompt() -> None:
    text = prompt("a<think>\x00é😀<｜tool▁sep｜>")
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert TOKENIZER.encode("a\xff", add_special_tokens=False) == [97, 0xC3, 0xBF]


def test_results_of_tools_that_ran_side_by_side_are_one_turn() -> None:
    results = [{"role": "tool", "content": str(i), "tool_call_id": f"c{i}"} for i in range(3)]
    asked = {"role": "assistant", "content": "", "tool_calls": []}
    assert read(prompt("x", asked, *results)).last_turn == results


@pytest.mark.parametrize("thinking", [False, True])
def test_an_answer_stands_in_the_next_prompt_as_it_was_generated(thinking: bool) -> None:
    def asked(*more: Mapping[str, object]) -> str:
        said = '[[call: add {"a":1}]][[say: ok]]'
        return prompt(said, *more, thinking=thinking, tools=[ADD])

    generated = text_of(events(request(asked())))
    call = {"function": {"name": "add", "arguments": '{"a":1}'}}
    answered: dict[str, object] = {"role": "assistant", "content": "ok", "tool_calls": [call]}
    if thinking:
        answered["reasoning_content"] = generated.partition("</think>")[0]
    second = asked(answered, {"role": "tool", "content": "2"})
    assert second.startswith(asked() + generated + "<｜end▁of▁sentence｜>")


def test_earlier_thinking_is_left_out_where_there_are_no_tools() -> None:
    answered = {"role": "assistant", "content": "ok", "reasoning_content": "Hm."}
    assert "Hm." not in prompt("Hi", answered, "Go on")
    assert "<think>Hm.</think>ok" in prompt("Hi", answered, "Go on", tools=[ADD])


@pytest.mark.parametrize(
    ("begun", "wanted"),
    [
        ({"content": "You sa"}, "id: Hi"),
        ({"content": "Well, "}, "You said: Hi"),
        ({"content": "You", "reasoning_content": "Hm."}, " said: Hi"),
        (
            {"content": "", "reasoning_content": "The last"},
            " message has 2 characters.</think>You said: Hi",
        ),
    ],
)
def test_what_the_prompt_has_begun_is_not_said_again(begun: dict[str, object], wanted: str) -> None:
    text = prompt("Hi", {"role": "assistant", "prefix": True, **begun}, thinking=True)
    assert text.endswith(str(begun["content"] or begun["reasoning_content"]))
    assert text_of(events(request(text))) == wanted


def test_the_template_is_found_to_write_calls_as_v3_1_does() -> None:
    assert CHAT.tool_use == ToolUse("deepseek_v3_1", writes_tools=True, writes_calls=True)


def test_calls_are_what_the_servers_parser_reads() -> None:
    parser = tool_parser("deepseek_v3_1")
    written = answer('[[say: ok]][[call: f {"a": [[1]]}]][[call: g]]')
    assert [*parser.push(written), *parser.finish()] == [
        "ok",
        CallStart(0, "f"),
        CallArguments(0, '{"a": [[1]]}'),
        CallStart(1, "g"),
        CallArguments(1, "{}"),
    ]


# --- answers ---------------------------------------------------------------------------------


def test_plain_answers() -> None:
    assert answer("Hi 你好") == "You said: Hi 你好"
    assert answer("Hi", thinking=True) == "The last message has 2 characters.</think>You said: Hi"
    assert text_of(events(request("Once upon"))) == " You said: Once upon"
    assert text_of(events(request("<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"))) == " filled in "


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("x [[say: Hello, 世界]] y", "Hello, 世界"),
        ("```\n[[say: a]]\n```\n[[say: b]]", "ab"),
        ("[[say: a[[b]]c]]", "a[[b]]c"),
        ("[[say: [1,[2]]]]", "[1,[2]]"),
        ("[[say: [1, ]]", "[1, "),
        ("[[count: 3]]", "word1 word2 word3"),
        ("[[repeat: 3 ab]]", "ababab"),
        ("[[raw: <think>x</think>y]]", "<think>x</think>y"),
        ('[[call: f {"a":[[1]]}]]', CALLS.format(CALL.format("f", '{"a":[[1]]}'))),
        ("[[call: f]][[say: a]]", "a" + CALLS.format(CALL.format("f", "{}"))),
        (
            "[[call: f {}]] and [[call: g {}]]",
            CALLS.format(CALL.format("f", "{}") + CALL.format("g", "{}")),
        ),
        ("[[unknown: x]]", "You said: [[unknown: x]]"),
        ("[[say: never closed", "You said: [[say: never closed"),
        ("[[fail]]", "Failures are off; start the server with scripted:faults."),
    ],
)
def test_directives(said: str, wanted: str) -> None:
    assert answer(said) == wanted


def test_thinking_can_be_set_apart_from_what_is_said() -> None:
    said = "[[think: Hm.]][[say: Yes.]]"
    assert answer(said, thinking=True) == "Hm.</think>Yes."
    assert answer(said) == "Yes."


def test_directives_have_a_number() -> None:
    assert answer("[[say: [a]]" * 3) == "[a[a[a"
    assert answer("[[say: a]]" * 65) == "a" * 64


def test_prompt_shows_the_prompt() -> None:
    shown = prompt({"role": "system", "content": "S"}, "[[prompt]]")
    assert text_of(events(request(shown))) == shown


@pytest.mark.parametrize(
    ("said", "tools", "wanted"),
    [
        (
            "Is it raining in San Francisco, CA?",
            [WEATHER],
            [("get_weather", "San Francisco")],
        ),
        ('The weather in "北京"?', [WEATHER], [("get_weather", "北京")]),
        ("Hello", [WEATHER], [("get_weather", "city")]),
        ("Hello", [WEATHER, ADD], []),
        ("Use a tool in Paris", [WEATHER, ADD], [("get_weather", "Paris")]),
        ("add 3 and 4.5, then get_weather", [WEATHER, ADD], [("add", 3), ("get_weather", "city")]),
    ],
)
def test_which_tools_are_called(
    said: str, tools: list[dict[str, object]], wanted: list[tuple[str, object]]
) -> None:
    called = answer(said, tools=tools)
    names = [part.partition("<｜tool▁sep｜>") for part in called.split("<｜tool▁call▁begin｜>")[1:]]
    found = [
        (name, next(iter(json.loads(rest.partition("<｜tool▁call▁end｜>")[0]).values())))
        for name, _, rest in names
    ]
    assert found == wanted
    assert called.startswith("<｜tool▁calls▁begin｜>" if wanted else "You said: ")


def test_tool_results_are_quoted_and_may_direct() -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": []}
    results = [{"role": "tool", "content": "sunny"}, {"role": "tool", "content": "7"}]
    assert answer("Hi", asked, *results, tools=[WEATHER]) == "The tools said: sunny; 7"
    again = {"role": "tool", "content": "[[call: f {}]]"}
    assert answer("Hi", asked, again) == CALLS.format(CALL.format("f", "{}"))


def test_json_where_it_is_wished() -> None:
    system = {"role": "system", "content": "Answer in JSON."}
    assert json.loads(answer(system, "Hi")) == {"answer": "Hi"}
    keys = "A joke as JSON with the 'setup' and 'punchline' keys, please."
    assert json.loads(answer(keys)) == {"setup": "setup", "punchline": "punchline"}


def test_arguments_follow_the_schema() -> None:
    schema = {
        "type": "object",
        "$defs": {"Unit": {"enum": ["C", "F"]}},
        "properties": {
            "unit": {"$ref": "#/$defs/Unit"},
            "days": {"type": "array", "items": {"type": "integer"}},
            "where": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
                "required": ["city"],
            },
            "when": {"type": ["string", "null"], "format": "date"},
            "sure": {"type": "boolean"},
            "maybe": {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]},
            "not_required": {"type": "string"},
        },
        "required": ["unit", "days", "where", "when", "sure", "maybe"],
    }
    assert Filler("'F' for 1, -2 and 3.5 in Paris").arguments(schema) == {
        "unit": "F",
        "days": [1, -2, 0],
        "where": {"city": "Paris"},
        "when": "2026-01-31",
        "sure": True,
        "maybe": 5,
    }
    endless: dict[str, object] = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    json.dumps(Filler("").arguments(endless))
    wide = {"type": "object", "properties": {c: {"$ref": "#"} for c in "abcdefghij"}}
    assert len(json.dumps(Filler("").arguments(wide))) < 1_000_000
    assert Filler("").arguments(None) == {}


# --- the engine's own part -------------------------------------------------------------------


def test_limits_of_a_request_are_the_engines() -> None:
    found = events(request(prompt("[[say: one two]]"), max_tokens=5))
    assert (text_of(found), found[-1].finish_reason) == ("one t", "length")
    assert found[-1].usage is not None
    assert found[-1].usage.completion_tokens == 5
    found = events(request(prompt("[[say: one two]]"), stop=("e t",)))
    assert (text_of(found), found[-1].finish_reason) == ("one t", "stop")
    found = events(request(prompt("[[say: abcabc]]"), stop_token_ids=(ord("c"),)))
    assert (text_of(found), found[-1].ended_by_token) == ("abc", True)
    found = events(request(prompt("[[say: ab]]"), ignore_eos=True, max_tokens=7))
    assert text_of(found) == "abababa"


def test_a_prompt_is_found_in_the_cache_with_the_answer_before_it() -> None:
    running = engine()
    long = "A message that is longer than a page, so that there is something to keep. " * 2
    first = events(request(prompt(long), "first"), running)
    said = {"role": "assistant", "content": text_of(first)}
    second = events(request(prompt(long, said, "Go on"), "second"), running)
    assert first[-1].usage is not None
    assert second[-1].usage is not None
    before = first[-1].usage.prompt_tokens + first[-1].usage.completion_tokens
    assert second[-1].usage.cached_tokens >= before - 64 > first[-1].usage.prompt_tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_scripts_are_certain(temperature: float) -> None:
    harsh: dict[str, object] = {
        "frequency_penalty": 2.0,
        "presence_penalty": 2.0,
        "repetition_penalty": 1.5,
    }
    for settings in ({}, harsh, {"frequency_penalty": -2.0}, {"top_p": 0.1}, {"min_p": 0.5}):
        said = prompt("[[repeat: 100 ab]]")
        wanted = request(said, **(settings | {"temperature": temperature}))
        assert text_of(events(wanted)) == "ab" * 100, settings


def test_letters_are_drawn_by_seed_and_choice() -> None:
    def drawn(seed: int) -> list[str]:
        found = events(request(prompt("[[random: 40]]."), n=2, seed=seed))
        return [text_of(found, choice) for choice in range(2)]

    first = drawn(1)
    assert drawn(1) == first
    assert len({*first, *drawn(2)}) == 4
    assert all(len(text) == 40 and text.isalpha() for text in first)


def test_logit_bias_forbids_and_forces() -> None:
    said = prompt("[[say: aba]]")
    for temperature in (0.0, 1.0):
        banned = text_of(events(request(said, temperature=temperature, logit_bias={97: -100.0})))
        assert (len(banned), banned[1], "a" in banned) == (3, "b", False)
        assert banned.isprintable()
        biased = request(said, temperature=temperature, logit_bias={ord("~"): 100.0}, max_tokens=4)
        assert text_of(events(biased)) == "~~~~"


def test_logprobs_are_those_of_a_distribution() -> None:
    for said, certain in (("[[say: ab]]", True), ("[[random: 3]]", False)):
        for event in events(request(prompt(said), num_logprobs=5)):
            assert event.logprobs is not None
            for entry in event.logprobs:
                best = [value for _, value in entry.top]
                assert len(best) == 5
                assert best == sorted(best, reverse=True)
                assert sum(math.exp(value) for value in best) <= 1.0001
                if certain:
                    assert entry.top[0] == (entry.token_id, entry.logprob)


def test_drafts_change_nothing_but_the_number_of_steps() -> None:
    wanted = request(prompt("[[repeat: 60 abc]]"), temperature=1.0, seed=3)
    running = engine(EngineConfig(model_path="scripted", speculation="ngram"))
    assert text_of(events(wanted, running)) == "abc" * 60
    assert running.stats().accepted_tokens > 0


def test_memory_can_be_made_short() -> None:
    """Sixteen pages for two answers of nine each: one waits or starts again, both are whole."""
    running = engine(EngineConfig(model_path="scripted", kv_budget_bytes=1 << 20))
    for name in "ab":
        running.submit(request(prompt("[[repeat: 500 x]]"), name))
    found: list[Event] = []
    while running.has_work():
        found += running.step()
    for name in "ab":
        assert text_of([event for event in found if event.request_id == name]) == "x" * 500


def test_what_has_been_answered_is_forgotten() -> None:
    """And read again where it was not over: here by asking in turns."""
    made = ScriptedExecutor(TOKENIZER, ScriptConfig(), max_running=1)
    running = with_executor(made)
    for i in range(20):
        running.submit(request(prompt(f"[[say: {i}]]"), str(i)))
    found: list[Event] = []
    while running.has_work():
        found += running.step()
    for i in range(20):
        assert text_of([event for event in found if event.request_id == str(i)]) == str(i)
    assert len(made._known) == REQUESTS_KNOWN


# --- pace, faults, configuration -------------------------------------------------------------


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def executor(script: ScriptConfig, time: Time, deaths: list[int]) -> ScriptedExecutor:
    return ScriptedExecutor(
        TOKENIZER, script, clock=time, sleep=time.sleep, die=lambda: deaths.append(1)
    )


def with_executor(made: ScriptedExecutor) -> Engine:
    running = engine()
    running._executor = made
    return running


def test_a_rate_is_kept_however_many_run() -> None:
    time = Time()
    running = with_executor(executor(ScriptConfig(tokens_per_second=50), time, []))
    for name in "ab":
        running.submit(request(prompt("[[count: 99]]"), name, max_tokens=100))
    while running.has_work():
        running.step()
    assert time.seconds == pytest.approx(101 / 50, rel=0.02)


def test_faults() -> None:
    time, deaths = Time(), list[int]()
    running = with_executor(executor(ScriptConfig(faults=True), time, deaths))
    found = events(request(prompt("[[say: ab]][[fail]]"), "a"), running)
    assert (text_of(found), found[-1].finish_reason) == ("ab", "error")
    found = events(request(prompt("[[say: ab]][[fail: all]]"), "b"), running)
    assert (text_of(found), found[-1].finish_reason) == ("ab", "error")
    found = events(request(prompt("[[hang: 2.5]][[say: ab]]"), "c"), running)
    assert (text_of(found), time.seconds) == ("ab", 2.5)
    found = events(request(prompt("[[say: ab]][[die]][[say: cd]]"), "d"), running)
    assert (text_of(found), len(deaths)) == ("abcd", 1)


def test_an_empty_step_is_no_step() -> None:
    made = executor(ScriptConfig(tokens_per_second=1), Time(), [])
    assert made.run(StepPlan(step_id=1, chunks=[])).tokens == []


@pytest.mark.parametrize(
    "settings",
    [
        {"max_context_tokens": (1 << 20) + 1},
        {"speculation": "mtp"},
        {"speculation": "ngram"},  # with faults
        {"kv_budget_bytes": 1000},
        {"max_running": 600, "max_step_tokens": 512},
        {"step_stretch": 0.5},
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object]) -> None:
    config = EngineConfig(model_path="scripted", **settings)  # type: ignore[arg-type]
    with pytest.raises(BadConfig):
        build_scripted(config, ScriptConfig(faults=True))


def test_the_process_dies_and_the_answer_goes_on() -> None:
    """What was answered is not answered again, and what ended the process does so once."""

    async def run() -> None:
        config = EngineConfig(model_path="scripted", script=ScriptConfig(faults=True))
        client = await EngineClient.start(config, patience=Patience(restart_seconds=0.0))
        try:
            wanted = request(prompt("[[count: 20]][[die]][[say: !]]"))
            found = [event async for event in client.submit(wanted)]
            assert text_of(found) == " ".join(f"word{i}" for i in range(1, 21)) + "!"
            assert client.restarts == 1
        finally:
            await client.close(0)

    asyncio.run(asyncio.wait_for(run(), 60))


# --- grammars --------------------------------------------------------------------------------

BROAD = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 100, "maximum": 140},
        "x": {"type": "number", "exclusiveMinimum": 0},
        "e": {"enum": ["red", "green"]},
        "l": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2},
        "o": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        "u": {"type": "string", "format": "uuid"},
        "p": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"},
        "left_out": {"type": "string"},
    },
    "required": ["n", "x", "e", "l", "o", "u", "p"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("thinking", [False, True])
def test_answers_by_a_grammar_are_valid_and_short(thinking: bool, temperature: float) -> None:
    grammar = grammar_of(json_schema_answer(BROAD, "x"), "open" if thinking else "none", TOKENIZER)
    text = prompt("Hi", thinking=thinking)
    found = events(request(text, grammar=grammar, temperature=temperature))
    thoughts, _, said = text_of(found).rpartition("</think>")
    assert thoughts == ("The last message has 2 characters." if thinking else "")
    assert found[-1].finish_reason == "stop"
    value = json.loads(said)
    assert list(value) == BROAD["required"]
    assert 100 <= value["n"] <= 140
    assert value["x"] > 0
    assert [len(item) for item in value["l"]] == [3, 3]
    assert len(said) < 150


def test_a_grammar_that_allows_the_script_changes_nothing() -> None:
    grammar = grammar_of(json_rule("answer", ANY_OBJECT), "none", TOKENIZER)
    said = '{"a": "b\\"c", "d": [[1]]}'
    assert text_of(events(request(prompt(f"[[say: {said}]]"), grammar=grammar))) == said
    assert text_of(events(request(prompt("as json"), grammar=grammar))) == '{"answer":"as json"}'
    assert text_of(events(request(prompt("Hi"), grammar=grammar))) == "{}"


def test_drafts_follow_a_grammar_too() -> None:
    """As long as the script is followed, and after."""
    running = engine(EngineConfig(model_path="scripted", speculation="ngram"))
    schema = {"type": "array", "items": {"enum": ["abcabc"]}, "minItems": 30, "maxItems": 30}
    grammar = grammar_of(json_schema_answer(schema, "x"), "none", TOKENIZER)
    assert (
        json.loads(text_of(events(request(prompt("Hi"), grammar=grammar), running)))
        == ["abcabc"] * 30
    )
    assert running.stats().accepted_tokens > 0


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("add 3 and 4.5", [("add", '{"a":3,"b":4.5}')]),
        ('[[call: add {"a": 1, "b": 2}]]', [("add", '{"a": 1, "b": 2}')]),
        (
            "add 3 and 4, get_weather",
            [("add", '{"a":3,"b":4}'), ("get_weather", '{"city":"city"}')],
        ),
        ("Hello", [("add", '{"a":0,"b":1}')]),
        ("[[call: nope {}]]", [("add", '{"a":0,"b":1}')]),
        ("[[call: get_weather {}]]", [("get_weather", '{"city":""}')]),
    ],
)
def test_calls_that_a_grammar_asks_for(said: str, wanted: list[tuple[str, str]]) -> None:
    """Markers come as their tokens, which were spelled in others where they had to follow."""
    functions = [(f, json.dumps(f["parameters"])) for f in (ADD["function"], WEATHER["function"])]
    callable_tools = [CallableTool(f["name"], schema) for f, schema in functions]
    answered = tool_answer("deepseek_v3_1", callable_tools, TOKENIZER, must_call=True)
    grammar = grammar_of(answered, "none", TOKENIZER)
    found = events(request(prompt(said, tools=[ADD, WEATHER]), grammar=grammar))
    assert text_of(found) == CALLS.format("".join(CALL.format(*call) for call in wanted))
    marks = [i for event in found for i in event.token_ids if i > 255]
    assert len(marks) == 2 + 3 * len(wanted) + 1


def test_off_the_script_what_ends_comes_first() -> None:
    (end,) = TOKENIZER.eos_token_ids
    order = Order(TOKENIZER, end)
    followed = Followed()
    assert order.ranked(followed)[0] == end
    for token in b'{"a':
        order.take(followed, token)
    assert order.ranked(followed)[0] == ord('"')
    for token in b'\\""':
        order.take(followed, token)
    ranked = order.ranked(followed)
    assert ranked.index(ord("}")) < ranked.index(ord(",")) < ranked.index(ord("0"))
    order.take(followed, ord("0"))
    ranked = order.ranked(followed)
    assert ranked.index(ord("1")) < ranked.index(ord("0"))
    assert sorted(ranked) == list(range(TOKENIZER.vocab_size))
