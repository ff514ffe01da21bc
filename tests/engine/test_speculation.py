"""Speculative decoding changes no token, no probability and no count: against plain decoding.

Every draft is taken here (`Eager`, `Fickle`), so that wrong ones are as frequent as they can be.
The models are mini-r1, whose drafter is mostly right, and random ones, whose n-grams mostly fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.engine.model_folder import write_model_folder
from tests.models.tiny import tiny_tokens
from tests.scheduling.policies import Eager, Fickle
from tribody.core.config import EngineConfig, Speculation, WeightFormat
from tribody.core.engine_info import EngineStats
from tribody.core.errors import BadConfig
from tribody.core.request import Event, Request, SamplingParams, TokenLogprob, Usage
from tribody.engine.build import BuiltEngine, build
from tribody.loading import bundled
from tribody.quality.held_out import bundled_file, choose, read_items
from tribody.scheduling import drafting

LENGTH = 90
SAMPLED: dict[str, object] = {"temperature": 1.0, "top_p": 0.95, "seed": 5}
PENALISED: dict[str, object] = SAMPLED | {
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.4,
    "presence_penalty": 0.3,
    "logit_bias": {40: 2.0, 41: -2.0},
}
OBJECT = 'start: thought %json {"type":"object"}\nthought[lazy]: /(?s:.){0,60}<\\/think>/'
WAYS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0},
    "greedy, penalties": PENALISED | {"temperature": 0.0},
    "sampled": SAMPLED,
    "sampled, penalties": PENALISED,
    "sampled, cut": SAMPLED | {"top_k": 20, "min_p": 0.02, "temperature": 0.7},
    "with probabilities": {"temperature": 0.0, "num_logprobs": 3},
    "past its end": {"temperature": 0.0, "ignore_eos": True},
    "by a grammar": {"temperature": 0.0, "grammar": "start: /(?s:[^<\n]{0,30}[0-9]+\n)+/"},
    "sampled, by a grammar": SAMPLED | {"temperature": 1.5, "grammar": OBJECT},
}


@dataclass
class Answer:
    """All that a caller learns of one choice."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish: str | None = None
    ended_by_token: bool = False


Answers = dict[tuple[str, int], Answer]


def start(folder: Path, speculation: Speculation, **more: object) -> BuiltEngine:
    settings = {"num_threads": 1, "kv_budget_bytes": 1 << 24, "max_drafts": 4} | more
    return build(EngineConfig(model_path=str(folder), speculation=speculation, **settings))  # type: ignore[arg-type]


def run(built: BuiltEngine, requests: list[Request]) -> tuple[Answers, dict[str, Usage]]:
    """Submit everything at once and run to the end; pages are checked after every step."""
    answers = {(r.id, c): Answer([], []) for r in requests for c in range(r.n)}
    usages: dict[str, Usage] = {}
    for request in requests:
        built.engine.submit(request)
    while built.engine.has_work():
        for event in built.engine.step():
            take(answers[event.request_id, event.choice], event)
            if event.usage is not None:
                usages[event.request_id] = event.usage
        built.engine.check()
    return answers, usages


def take(answer: Answer, event: Event) -> None:
    answer.token_ids += event.token_ids
    answer.logprobs += event.logprobs or []
    answer.finish, answer.ended_by_token = event.finish_reason, event.ended_by_token


def prompts(built: BuiltEngine, count: int) -> list[list[int]]:
    """Questions that mini-r1 knows how to think about, with the thinking opened."""
    path = bundled_file()
    assert path is not None
    short = [item for item in read_items(path) if len(item.prompt) < 200]
    return [
        built.tokenizer.encode(
            f"<｜begin▁of▁sentence｜><｜User｜>{item.prompt}<｜Assistant｜><think>\n",
            add_special_tokens=False,
        )
        for item in choose(short, count)
    ]


def batch(texts: list[list[int]], ways: dict[str, dict[str, object]], length: int) -> list[Request]:
    """One request for each way of sampling, two of them in two choices."""
    return [
        Request(
            id=way,
            prompt_token_ids=texts[i % len(texts)],
            sampling=SamplingParams(max_tokens=length, **options),  # type: ignore[arg-type]
            n=2 if way.startswith("sampled,") else 1,
        )
        for i, (way, options) in enumerate(ways.items())
    ]


@pytest.fixture(scope="module", params=["float32", "w8g32"])
def weight_format(request: pytest.FixtureRequest) -> WeightFormat:
    return request.param


@pytest.fixture(scope="module")
def mini(weight_format: WeightFormat) -> tuple[Path, list[Request], Answers, dict[str, Usage]]:
    """mini-r1, a mixed batch of requests, and what plain decoding answers."""
    folder = bundled.locate("mini-r1")
    built = start(folder, "off", weight_format=weight_format)
    assert built.info.speculation == "off"
    requests = batch(prompts(built, len(WAYS)), WAYS, LENGTH)
    answers, usages = run(built, requests)
    assert built.engine.stats().drafted_tokens == 0
    return folder, requests, answers, usages


@pytest.mark.parametrize("speculation", ["mtp", "ngram", "auto"])
@pytest.mark.parametrize("limits", [{}, {"max_step_tokens": 24, "max_running": 9}])
def test_mini_r1_answers_alike_however_it_drafts(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]],
    weight_format: WeightFormat,
    speculation: Speculation,
    limits: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens, log probabilities to the bit, finish reasons and usage; prompts in small chunks too,
    which leaves drafts little room."""
    folder, requests, answers, usages = mini
    monkeypatch.setattr(drafting, "Speculation", Eager)
    built = start(folder, speculation, weight_format=weight_format, **limits)
    got, counted = run(built, requests)
    assert got == answers
    assert counted == usages
    stats = built.engine.stats()
    check_counts(stats, answers)
    if speculation != "ngram" and not limits:
        assert stats.accepted_tokens > 0.2 * stats.generated_tokens


def check_counts(stats: EngineStats, answers: Answers) -> None:
    assert stats.generated_tokens == sum(len(answer.token_ids) for answer in answers.values())
    assert 0 < stats.accepted_tokens < stats.drafted_tokens, "both outcomes must be tested"


def test_the_shipped_policy_changes_nothing_either(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]], weight_format: WeightFormat
) -> None:
    folder, requests, answers, usages = mini
    built = start(folder, "auto", weight_format=weight_format)
    assert built.info.speculation == "mtp+ngram"
    assert run(built, requests) == (answers, usages)
    alone = [request for request in requests if request.n == 1]
    for request in alone:
        assert run(built, [request])[0][request.id, 0] == answers[request.id, 0]
    assert built.engine.stats().accepted_tokens > 0


def test_preemption_for_want_of_pages(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]],
    weight_format: WeightFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine sequences in the pages of five: the latest are put back and computed again."""
    folder, requests, answers, _ = mini
    monkeypatch.setattr(drafting, "Speculation", Eager)
    page = start(folder, "mtp", weight_format=weight_format).info
    budget = 8 * page.kv_budget_bytes // page.num_pages
    limits = {"kv_budget_bytes": budget, "max_context_tokens": 400}
    built = start(folder, "mtp", weight_format=weight_format, **limits)
    assert run(built, requests)[0] == answers
    stats = built.engine.stats()
    assert stats.preemptions > 0
    check_counts(stats, answers)


def test_the_prefix_cache_and_drafts(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]],
    weight_format: WeightFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long prompt, asked again: the drafter's latents come with the cached pages."""
    folder, requests, _, _ = mini
    long = [token for request in requests for token in request.prompt_token_ids]
    again = batch([long], {way: WAYS[way] for way in ("greedy", "sampled")}, 40)
    plain, usages = run(start(folder, "off", weight_format=weight_format), again)
    monkeypatch.setattr(drafting, "Speculation", Eager)
    built = start(folder, "mtp", weight_format=weight_format)
    first, _ = run(built, again)
    cold = built.engine.stats()
    second, counted = run(built, again)
    assert first == second == plain
    assert counted["sampled"].cached_tokens >= 64 > usages["greedy"].cached_tokens
    warm = built.engine.stats()
    assert warm.accepted_tokens - cold.accepted_tokens > 0.7 * cold.accepted_tokens


@pytest.mark.parametrize("speculation", ["mtp", "ngram"])
def test_answers_go_on_after_a_restart(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]],
    weight_format: WeightFormat,
    speculation: Speculation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the client resumes them: some had no token yet, some had many, one choice had ended."""
    folder, requests, answers, usages = mini
    monkeypatch.setattr(drafting, "Speculation", partial(Fickle, seed=3))
    built = start(folder, speculation, weight_format=weight_format)
    resumed = []
    for place, request in enumerate(requests):
        whole = [answers[request.id, choice].token_ids for choice in range(request.n)]
        cuts = [min(7 * place, len(tokens) - 1) for tokens in whole]
        cuts[-1] = len(whole[-1]) if request.n > 1 else cuts[-1]
        resumed.append(
            Request(
                id=request.id,
                prompt_token_ids=request.prompt_token_ids,
                sampling=request.sampling,
                n=request.n,
                resumed=tuple(tuple(t[:cut]) for t, cut in zip(whole, cuts, strict=True)),
                finished=(request.n - 1,) if request.n > 1 else (),
                resumed_cached_tokens=0,
            )
        )
    got, counted = run(built, resumed)
    for request in resumed:
        for choice in set(range(request.n)) - set(request.finished):
            mine = list(request.resumed[choice]) + got[request.id, choice].token_ids
            assert mine == answers[request.id, choice].token_ids
        assert counted[request.id].completion_tokens == usages[request.id].completion_tokens


def test_ends_in_the_middle_of_an_accepted_run(
    mini: tuple[Path, list[Request], Answers, dict[str, Usage]],
    weight_format: WeightFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The greedy answer stopped at each of its places: by length, by a token, by a string."""
    folder, requests, answers, _ = mini
    whole, prompt = answers["greedy", 0].token_ids, requests[0].prompt_token_ids
    plain = start(folder, "off", weight_format=weight_format)
    monkeypatch.setattr(drafting, "Speculation", Eager)
    built = start(folder, "auto", weight_format=weight_format)
    ends: list[dict[str, object]] = [{"max_tokens": length} for length in range(1, 24)]
    ends += [{"stop_token_ids": (token,)} for token in sorted(set(whole[:24]))]
    for place in range(2, 24):
        text = plain.tokenizer.decode(whole[place - 2 : place], skip_special_tokens=True)
        ends += [{"stop": (text,)}] if text.strip() else []
    stopped = [
        Request(
            id=str(i),
            prompt_token_ids=prompt,
            sampling=SamplingParams(**({"max_tokens": LENGTH, "temperature": 0.0} | end)),  # type: ignore[arg-type]
        )
        for i, end in enumerate(ends)
    ]
    expected, usages = run(plain, stopped)
    got, counted = run(built, stopped)
    assert got == expected
    assert {answer.finish for answer in got.values()} == {"stop", "length"}
    for i, usage in usages.items():
        assert counted[i].completion_tokens == usage.completion_tokens
    assert built.engine.stats().accepted_tokens > 100


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "v3-no-q-lora"])
def test_random_models_and_their_own_past(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that repeat themselves, so that n-grams are found; the models know nothing of it."""
    folder = write_model_folder(tmp_path / name, name)
    texts = [tiny_tokens(9, seed=i, vocab_size=200) * (2 + i) for i in range(len(WAYS))]
    requests = batch(texts, WAYS, 60)
    plain = run(start(folder, "off"), requests)
    monkeypatch.setattr(drafting, "Speculation", Eager)
    built = start(folder, "auto", max_step_tokens=100)
    assert built.info.speculation == "ngram"
    assert run(built, requests) == plain
    assert built.engine.stats().drafted_tokens > 50


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "llama", "llama")
    with pytest.raises(BadConfig, match="no multi-token-prediction module"):
        start(folder, "mtp")
    with pytest.raises(BadConfig, match="max_drafts is -1"):
        start(folder, "auto", max_drafts=-1)
    assert start(folder, "auto").info.speculation == "ngram"


@pytest.mark.weights
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_smollm2_answers_alike(
    smollm2_path: Path, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text to be quoted: most n-grams are right, and the answer is the same."""
    plain = start(smollm2_path, "off", kv_budget_bytes=1 << 27)
    quoted = "The quick brown fox jumps over the lazy dog, and the dog, who is not that lazy, "
    text = f"Repeat this sentence five times.\n{quoted}barks at the fox.\n{quoted}barks at the"
    request = Request(
        id="a",
        prompt_token_ids=plain.tokenizer.encode(text, add_special_tokens=True),
        sampling=SamplingParams(max_tokens=120, temperature=temperature, seed=3, ignore_eos=True),
    )
    expected = run(plain, [request])
    monkeypatch.setattr(drafting, "Speculation", Eager)
    built = start(smollm2_path, "auto", kv_budget_bytes=1 << 27, max_drafts=8)
    assert run(built, [request]) == expected
    stats = built.engine.stats()
    assert 10 < stats.accepted_tokens < stats.drafted_tokens
