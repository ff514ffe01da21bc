"""`tribody.LLM` on a tiny model folder: generate, chat, score and logits agree with each other."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.engine.model_folder import EOS, VOCAB_SIZE, write_model_folder
from tribody import LLM
from tribody.core.errors import BadConfig, BadRequest
from tribody.text import deepseek_templates

KV_BYTES = 1 << 22


@pytest.fixture(scope="module", params=["qwen3", "v3-q-lora"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_model_folder(tmp_path_factory.mktemp("model") / "tiny", request.param)
    return LLM(folder, dtype="float32", kv_budget_bytes=KV_BYTES, num_threads=1)


def test_logits_score_and_generate_agree(llm: LLM) -> None:
    """Greedy tokens are the arg max of `logits`, and `score` of them says so."""
    prompt = "In the beginning"
    answer = llm.generate(prompt, max_tokens=5, temperature=0.0, ignore_eos=True, num_logprobs=1)
    tokens = answer.prompt_token_ids + answer.choices[0].token_ids
    logits = llm.logits(tokens)
    assert logits.shape == (len(tokens), VOCAB_SIZE)
    first = len(answer.prompt_token_ids) - 1
    assert logits[first:-1].argmax(axis=1).tolist() == answer.choices[0].token_ids
    score = llm.score(prompt, answer.choices[0].token_ids)
    assert score.is_greedy
    assert score.logprob == pytest.approx(sum(score.token_logprobs))
    wide = logits[first:-1].astype(np.float64)
    expected = wide.max(axis=1) - np.log(np.exp(wide).sum(axis=1))
    assert score.token_logprobs == pytest.approx(expected, abs=1e-5 * np.abs(wide).max())
    reported = [entry.logprob for entry in answer.choices[0].logprobs]
    assert reported == pytest.approx(expected, abs=1e-5 * np.abs(wide).max())


def test_an_answer_does_not_depend_on_its_batch(llm: LLM) -> None:
    prompts = [f"{i} apples and {i * i} pears" for i in range(12)]
    together = llm.generate(prompts, max_tokens=6, seed=4, temperature=0.8, top_p=0.9)
    for prompt, expected in zip(prompts, together, strict=True):
        alone = llm.generate(prompt, max_tokens=6, seed=4, temperature=0.8, top_p=0.9)
        assert alone.choices == expected.choices


def test_choices_differ_and_usage_counts_them(llm: LLM) -> None:
    answer = llm.generate("abc", n=3, max_tokens=8, seed=1, ignore_eos=True)
    assert len({tuple(choice.token_ids) for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 24)
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


def test_stop_strings_cut_the_text(llm: LLM) -> None:
    free = llm.generate("xyz", max_tokens=12, temperature=0.0, ignore_eos=True)
    target = free.text[2]
    stopped = llm.generate("xyz", max_tokens=12, temperature=0.0, ignore_eos=True, stop=(target,))
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(target)]


def test_an_end_token_ends(llm: LLM) -> None:
    answer = llm.generate("abc", max_tokens=9, temperature=0.0, logit_bias={EOS: 100.0})
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].token_ids == [EOS]
    assert answer.text == ""


def test_a_stop_token_is_counted_but_no_part_of_the_text(llm: LLM) -> None:
    """It used to stay in the text when it was an ordinary token."""
    free = llm.generate("abc", max_tokens=6, temperature=0.0, ignore_eos=True)
    tokens = free.choices[0].token_ids
    stop = tokens[3]
    end = tokens.index(stop)
    answer = llm.generate("abc", max_tokens=6, temperature=0.0, stop_token_ids=(stop,))
    assert answer.choices[0].token_ids == tokens[: end + 1]
    assert answer.text == llm.tokenizer.decode(tokens[:end], skip_special_tokens=True)


def test_chat_renders_the_models_template(llm: LLM) -> None:
    answer = llm.chat([{"role": "user", "content": "hello"}], max_tokens=2, temperature=0.0)
    assert answer.prompt_token_ids == llm.tokenizer.encode("hello", add_special_tokens=False)


def test_chat_with_thinking_and_without(tmp_path: Path) -> None:
    """A checkpoint that carries R1's format, and one whose template has no switch."""
    folder = write_model_folder(tmp_path / "tiny", "v3-q-lora")
    plain = LLM(folder, dtype="float32", kv_budget_bytes=KV_BYTES, num_threads=1)
    ask = [{"role": "user", "content": "17 + 25"}]
    for wish in (True, False):
        with pytest.raises(BadRequest, match="no switch for thinking"):
            plain.chat(ask, thinking=wish, max_tokens=1)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": deepseek_templates.R1}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    llm = LLM(folder, dtype="float32", kv_budget_bytes=KV_BYTES, num_threads=1)
    opened = "<s><｜User｜>17 + 25<｜Assistant｜><think>\n"
    for thinking, prompt in (
        (None, opened),
        (True, opened),
        (False, opened + "\n</think>\n\n"),
    ):
        answer = llm.chat(ask, thinking=thinking, max_tokens=1)
        assert llm.tokenizer.decode(answer.prompt_token_ids, skip_special_tokens=False) == prompt


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"num_logprobs": 21}, "num_logprobs"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_options_out_of_range_are_named(llm: LLM, options: dict[str, object], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        llm.generate("abc", **options)  # type: ignore[call-overload]


def test_prompts_that_cannot_run_leave_the_engine_usable(llm: LLM) -> None:
    with pytest.raises(BadRequest, match="context"):
        llm.generate(["fine", "x" * 5000], max_tokens=2)
    with pytest.raises(BadRequest, match="token id"):
        llm.logits([VOCAB_SIZE])
    empty: list[list[int]] = [[]]
    with pytest.raises(BadRequest, match="no tokens"):
        llm.generate(empty)
    assert llm.generate("fine", max_tokens=1).choices[0].finish_reason is not None


def test_reference_and_native_give_the_same_greedy_tokens(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", "v2-lite")
    answers = [
        LLM(folder, dtype="float32", kv_budget_bytes=KV_BYTES, num_threads=1, ops=ops)
        .generate("some text", max_tokens=8, temperature=0.0, ignore_eos=True)
        .choices[0]
        .token_ids
        for ops in ("native", "reference")
    ]
    assert answers[0] == answers[1]


def test_bad_configurations_are_named(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    with pytest.raises(BadConfig, match="int4"):
        LLM(folder, dtype="int4")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="KV budget"):
        LLM(folder, kv_budget_bytes=1000)
    with pytest.raises(BadConfig, match="positions"):
        LLM(folder, max_context_tokens=1 << 20)
    with pytest.raises(BadConfig, match="max_running"):
        LLM(folder, max_running=64, max_step_tokens=32)
    with pytest.raises(BadConfig, match=r"step_stretch is 1\.1"):
        LLM(folder, step_stretch=1.1)


def test_the_kv_limit_says_what_set_it(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", "llama")
    small = LLM(folder, max_running=2, max_context_tokens=128, num_threads=1)
    assert small.info.kv_limit == "all that 2 sequences can fill"
    assert small.info.num_pages == 4
    given = LLM(folder, kv_budget_bytes=KV_BYTES, num_threads=1)
    assert given.info.kv_limit == "as configured"
    share = LLM(folder, kv_share=1e-4, num_threads=1)
    assert share.info.kv_limit == "0% of free memory"
    assert share.info.num_pages < given.info.num_pages


POINT: dict[str, object] = {
    "type": "object",
    "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


def test_an_answer_follows_a_schema(llm: LLM) -> None:
    answers = llm.generate(["abc", "xyz"], n=2, seed=5, json_schema=POINT)
    for choice in [choice for answer in answers for choice in answer.choices]:
        assert choice.finish_reason == "stop"
        assert json.loads(choice.text)["x"] in (1, 2)
    answer = llm.chat([{"role": "user", "content": "hello"}], seed=5, json_schema=POINT)
    assert set(json.loads(answer.text)) == {"x", "y"}
    assert llm.generate("abc", grammar='start: "no" | "yes"', seed=1).text in ("no", "yes")


def test_a_schema_that_cannot_be_followed_is_refused(llm: LLM) -> None:
    with pytest.raises(BadRequest, match="not both"):
        llm.generate("abc", json_schema=POINT, grammar='start: "a"')
    with pytest.raises(BadRequest, match="Unimplemented keys") as caught:
        llm.generate("abc", json_schema={"not": {}})
    assert caught.value.param == "json_schema"
    with pytest.raises(BadRequest, match="grammar cannot be followed"):
        llm.generate("abc", grammar="start: nothing")
