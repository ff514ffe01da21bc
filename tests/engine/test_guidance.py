"""Answers that follow a grammar: what is drawn, who waits for whom, and what a bad grammar costs.

With drafts, preemption and restarts: tests/engine/test_speculation.py, test_process.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.model_folder import EOS, VOCAB_SIZE, byte_tokenizer, write_model_folder
from tests.engine.test_speculation import prompts, run, start
from tribody import LLM
from tribody.core.errors import BadModel
from tribody.core.request import Event, Request, SampleSlot, SamplingParams
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine import guidance as guidance_module
from tribody.engine.build import BuiltEngine
from tribody.engine.guidance import LOST, UNUSABLE, Guidance, ll_tokenizer
from tribody.engine.sampler import sample
from tribody.loading import bundled
from tribody.ops import reference
from tribody.text import grammar_process
from tribody.text.grammar import ANY_OBJECT, grammar_of, json_rule, json_schema_answer
from tribody.text.grammar_process import compile_grammar
from tribody.text.tokenizer import Tokenizer

Check = Callable[[Any], bool]
CLOSED = {"additionalProperties": False}
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12, "pattern": "^[A-Z][a-z]*$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    **CLOSED,
}


def is_person(value: Any) -> bool:
    name, age = value["name"], value["age"]
    return set(value) == {"name", "age"} and name[0].isupper() and type(age) is int and age <= 150


def listed(items: dict[str, object], most: int) -> dict[str, object]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


LETTER: dict[str, object] = {"enum": ["a", "b", "c"]}
SCHEMAS: dict[str, tuple[dict[str, object], Check]] = {
    "person": (PERSON, is_person),
    "people": (listed(PERSON, 2), lambda v: 1 <= len(v) <= 2 and all(map(is_person, v))),
    "enum": (LETTER, lambda v: v in ("a", "b", "c")),
    "enums": (listed(LETTER, 5), lambda v: len(v) <= 5 and set(v) <= {"a", "b", "c"}),
    "boolean": ({"type": "boolean"}, lambda v: v in (True, False)),
    "number": ({"type": "number", "minimum": -1, "maximum": 1}, lambda v: -1 <= v <= 1),
    "multiple": ({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 999},
                 lambda v: v % 7 == 0),
    "const": ({"const": {"a": [1, None]}}, lambda v: v == {"a": [1, None]}),
    "either": ({"anyOf": [LETTER, {"type": "null"}]}, lambda v: v in ("a", "b", "c", None)),
    "short": ({"type": "string", "maxLength": 3}, lambda v: len(v) <= 3),
    "date": ({"type": "string", "format": "date"}, lambda v: len(v) == 10 and v[4] == "-"),
    "pair": ({"type": "array", "prefixItems": [LETTER, PERSON], "items": False, "minItems": 2},
             lambda v: v[0] in ("a", "b", "c") and is_person(v[1])),
}  # fmt: skip


@pytest.fixture(scope="module")
def mini() -> BuiltEngine:
    return start(bundled.locate("mini-r1"), "auto")


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("thinking", ["none", "may", "open"])
def test_every_answer_is_valid(mini: BuiltEngine, name: str, thinking: Any) -> None:
    """At temperature 1.5, where a small model says anything; three choices; thinking kept short."""
    schema, check = SCHEMAS[name]
    grammar = grammar_of(json_schema_answer(schema, "schema"), thinking, mini.tokenizer)
    grammar = grammar.replace("FREE: /(?s:.*)/", "FREE: /(?s:.){0,60}/")
    sampling = SamplingParams(max_tokens=900, temperature=1.5, seed=7, grammar=grammar)
    request = Request(id="a", prompt_token_ids=prompts(mini, 1)[0], sampling=sampling, n=3)
    answers, _ = run(mini, [request])
    for answer in answers.values():
        assert (answer.finish, answer.ended_by_token) == ("stop", True)
        text = mini.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        if thinking == "open":
            assert "</think>" in text
        text = text.strip()
        if thinking == "open" or text.startswith("<think>"):
            text = text.split("</think>", 1)[1]
        assert check(json.loads(text)), text


@pytest.mark.weights
@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_smollm2_writes_valid_json(smollm2_path: Path, speculation: Any) -> None:
    llm = LLM(smollm2_path, kv_budget_bytes=1 << 26, speculation=speculation)
    for name, (schema, check) in SCHEMAS.items():
        if name == "number":
            continue  # it says 1.000 and on and on: JSON does not bound a number's digits
        prompt = "Answer in JSON:"
        answer = llm.generate(
            prompt, json_schema=schema, temperature=1.5, n=3, seed=3, max_tokens=400
        )
        for choice in answer.choices:
            assert choice.finish_reason == "stop"
            assert check(json.loads(choice.text)), choice.text


# ---- one draw


def model_tokenizer() -> Tokenizer:
    content = byte_tokenizer().to_str().encode()
    return Tokenizer.from_source(TokenizerSource(tokenizer_json=content))


def prepared(grammar: str, **sampling: object) -> tuple[Guidance, SampleSlot]:
    guidance = Guidance(model_tokenizer, VOCAB_SIZE, frozenset([EOS]))
    params = SamplingParams(max_tokens=9, grammar=grammar, **sampling)  # type: ignore[arg-type]
    guidance.begin(Request(id="a", prompt_token_ids=[1], sampling=params))
    assert guidance.ready(60.0) == [("a", None)]
    return guidance, SampleSlot(0, 0, 0, params, [1], [], "a")


def ids(text: str) -> list[int]:
    return model_tokenizer().encode(text, add_special_tokens=False)


def draw(guidance: Guidance, slot: SampleSlot, logits: np.ndarray) -> tuple[int, Any]:
    (token,) = sample(reference.OPS, logits[None, :], [slot], np.zeros(1, np.int64), guidance)
    return token.token_id, token


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_nothing_lifts_the_mask(temperature: float) -> None:
    """Not the largest logit, not a bias, not a penalty of the allowed; probabilities stay."""
    (x,), (y,) = ids("x"), ids("y")
    options = {"logit_bias": {y: 100.0, x: -100.0}, "presence_penalty": 2.0, "num_logprobs": 2}
    guidance, slot = prepared('start: "x" "x"', temperature=temperature, **options)
    logits = np.zeros(VOCAB_SIZE, np.float32)
    logits[y] = 50
    token, result = draw(guidance, slot, logits)
    assert token == x
    assert result.logprob.logprob == pytest.approx(-50, abs=1e-3)
    assert result.logprob.top[0][0] == y


def test_an_end_comes_where_the_grammar_may_end_and_only_there() -> None:
    guidance, slot = prepared('start: "x"+', temperature=0.0)
    (x,) = ids("x")
    logits = np.zeros(VOCAB_SIZE, np.float32)
    logits[EOS] = 9
    assert draw(guidance, slot, logits)[0] == x
    slot.generated = [x]
    assert draw(guidance, slot, logits)[0] == EOS


def test_ignoring_the_end_does_not_go_past_the_grammar() -> None:
    guidance, slot = prepared('start: "x" "x"?', temperature=0.0, ignore_eos=True)
    (x,) = ids("x")
    logits = np.zeros(VOCAB_SIZE, np.float32)
    logits[EOS] = 9
    slot.generated = [x]
    assert draw(guidance, slot, logits)[0] == x, "the end is ignored while something may follow"
    slot.generated = [x, x]
    assert draw(guidance, slot, logits)[0] == EOS


def test_drafts_that_are_given_up_are_walked_back() -> None:
    guidance, slot = prepared('start: ("ab" | "ac")+')
    a, b, c = ids("abc")

    def allowed(slot: SampleSlot) -> set[int]:
        mask = guidance.mask(slot)
        assert mask is not None
        return {i for i in range(VOCAB_SIZE) if mask[i >> 3] >> (i & 7) & 1}

    assert allowed(slot.behind([a])) == {b, c}
    assert allowed(slot.behind([a, b])) == {a, EOS}
    assert allowed(slot) == {a}
    assert allowed(slot.behind([a])) == {b, c}
    slot.generated = [a, c, a]
    assert allowed(slot) == {b, c}


# ---- requests in an engine


@pytest.fixture
def tiny(tmp_path: Path) -> BuiltEngine:
    return start(write_model_folder(tmp_path / "tiny", "llama"), "off")


def request(rid: str, grammar: str | None, **more: Any) -> Request:
    sampling = SamplingParams(max_tokens=20, temperature=1.0, seed=2, grammar=grammar)
    return Request(id=rid, prompt_token_ids=ids("hello"), sampling=sampling, **more)


def events_of(built: BuiltEngine, steps: int = 10_000) -> Iterator[Event]:
    while built.engine.has_work() and steps:
        steps -= 1
        yield from built.engine.step()
    if not built.engine.has_work():
        built.engine.check()


OBJECT = grammar_of(json_rule("answer", ANY_OBJECT), "none", model_tokenizer())


@pytest.mark.parametrize("grammar", ["start: nothing", "start: %json {", "", "start: <[9999]>"])
def test_a_bad_grammar_ends_its_request_and_nothing_else(tiny: BuiltEngine, grammar: str) -> None:
    """After a good one it once took a whole engine down (vLLM)."""
    alone = run(tiny, [request("good", OBJECT), request("free", None)])[0]
    tiny.engine.submit(request("good", OBJECT))
    tiny.engine.submit(request("bad", grammar, n=2))
    tiny.engine.submit(request("free", None))
    events = list(events_of(tiny))
    ends = [(e.finish_reason, e.error) for e in events if e.request_id == "bad"]
    assert ends == [("error", UNUSABLE)] * 2
    for name in ("good", "free"):
        got = [t for e in events if e.request_id == name for t in e.token_ids]
        assert got == alone[name, 0].token_ids
    assert run(tiny, [request("good", OBJECT)])[0]["good", 0] == alone["good", 0]


def test_a_grammar_that_outgrows_its_limits_ends_with_an_error(
    tiny: BuiltEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All walks of a grammar share what it has used up; a later request begins anew."""
    monkeypatch.setattr(grammar_process, "MAX_LEXER_STATES", 300)
    grammar = 'start: %json {"type":"string","pattern":"(.|\\\\n)*a.{200}b.{200}"}'
    for _ in range(2):
        long = SamplingParams(max_tokens=1500, temperature=5.0, seed=2, grammar=grammar)
        spent = Request(id="spent", prompt_token_ids=ids("hello"), sampling=long)
        tiny.engine.submit(spent)
        *begun, end = list(events_of(tiny))
        assert (end.finish_reason, end.error) == ("error", LOST)
        assert begun, "it began before it was spent"
        assert run(tiny, [request("b", OBJECT)])[0]["b", 0].finish in ("stop", "length")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Compilation waits until it is set."""
    event = threading.Event()

    def slow(*arguments: Any) -> Any:
        assert event.wait(60)
        return compile_grammar(*arguments)

    monkeypatch.setattr(guidance_module, "compile_grammar", slow)
    yield event
    event.set()


def test_nobody_waits_for_another_requests_grammar(
    tiny: BuiltEngine, gate: threading.Event
) -> None:
    tiny.engine.submit(request("guided", OBJECT))
    tiny.engine.submit(request("free", None))
    done = [e.request_id for e in events_of(tiny, steps=40) if e.finish_reason]
    assert done == ["free"]
    assert tiny.engine.stats().waiting == 1
    gate.set()
    assert [e.request_id for e in events_of(tiny) if e.finish_reason] == ["guided"]


def test_an_abort_while_a_grammar_is_prepared(tiny: BuiltEngine, gate: threading.Event) -> None:
    tiny.engine.submit(request("guided", OBJECT, n=2))
    tiny.engine.step()
    tiny.engine.abort("guided")
    assert [e.finish_reason for e in events_of(tiny)] == ["abort", "abort"]
    gate.set()
    assert not tiny.engine.has_work()
    assert run(tiny, [request("b", OBJECT)])[0]["b", 0].token_ids


def test_a_grammar_that_nobody_waits_for_is_not_compiled(
    tiny: BuiltEngine, gate: threading.Event
) -> None:
    """Two of three that asked for the second one are gone before its turn, then the third."""
    tiny.engine.submit(request("first", OBJECT))
    for name in "abc":
        tiny.engine.submit(request(name, 'start: "x"'))
    guidance = tiny.engine._guidance
    assert guidance is not None
    waiting = guidance._preparing["a"]
    for name in "abc":
        assert not waiting.cancelled()
        tiny.engine.abort(name)
    assert waiting.cancelled()
    gate.set()
    assert [e.request_id for e in events_of(tiny) if e.finish_reason] == ["a", "b", "c", "first"]
    assert run(tiny, [request("again", 'start: "x"')])[0]["again", 0].finish == "stop"


def test_a_stop_string_ends_a_guided_answer(tiny: BuiltEngine) -> None:
    sampling = SamplingParams(max_tokens=9, grammar='start: "abcdef"', stop=("cd",))
    answers, _ = run(tiny, [Request(id="a", prompt_token_ids=[1], sampling=sampling)])
    assert answers["a", 0].finish == "stop"
    assert answers["a", 0].token_ids == ids("abcd")


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def counted(tokenizer: Any, grammar: str) -> Any:
        compiled.append(grammar)
        return compile_grammar(tokenizer, grammar)

    monkeypatch.setattr(guidance_module, "compile_grammar", counted)
    monkeypatch.setattr(guidance_module, "MAX_CACHED_BYTES", 400)
    guidance = Guidance(model_tokenizer, VOCAB_SIZE, frozenset([EOS]))

    def ask(grammar: str) -> None:
        guidance.begin(request("a", grammar))
        while guidance.is_preparing:
            guidance.ready(60.0)
        guidance.end("a", 0, is_last=True)

    small = [f'start: "{i:03}"' for i in range(40)]
    for grammar in small:
        ask(grammar)
    assert sum(map(len, guidance._cache)) <= 400
    assert list(guidance._cache)[-1] == small[-1]
    ask(small[-1])
    assert len(compiled) == 40, "the last one was kept"
    ask(small[0])
    assert len(compiled) == 41, "the first one was not"
    ask('start: "' + "x" * 1000 + '"')
    assert len(guidance._cache) == 1
    monkeypatch.setattr(guidance_module, "MAX_CACHED_GRAMMARS", 2)
    for grammar in small[:5]:
        ask(grammar)
    assert len(guidance._cache) == 2


def test_a_model_without_an_end_token_says_so() -> None:
    with pytest.raises(BadModel, match="no end-of-sequence token"):
        ll_tokenizer(model_tokenizer(), VOCAB_SIZE, frozenset())
    guidance = Guidance(model_tokenizer, VOCAB_SIZE, frozenset())
    guidance.begin(request("a", OBJECT))
    ((name, problem),) = guidance.ready(60.0)
    assert name == "a"
    assert problem is not None
    assert "no end-of-sequence token" in problem
