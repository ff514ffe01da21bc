"""The built-in DeepSeek formats, against literal prompts and the templates in DeepSeek's style."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.text.conversations import ANSWER, CALL, CONVERSATIONS, HELLO, RESULT, SYSTEM
from tests.text.vocabularies import as_tokenizer_json, byte_level
from tribody.core.errors import BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text import deepseek_templates
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.template_engine import TemplateEngine
from tribody.text.tool_messages import Message

DATA = Path(__file__).parent / "data" / "templates"
CONSTANTS = deepseek_templates.constants("deepseek_v3")
BOS, EOS = CONSTANTS["bos_token"], CONSTANTS["eos_token"]
BUILT_IN = {
    "deepseek_v2": deepseek_templates.V2,
    "deepseek_v3": deepseek_templates.V3,
    "deepseek_r1": deepseek_templates.R1,
    "deepseek_v3_1": deepseek_templates.V3_1,
}
WORDS_AND_CALL: Message = {
    "role": "assistant",
    "content": "Once more.",
    "tool_calls": [{"type": "function", "function": {"name": "now", "arguments": "{}"}}],
}
THOUGHT: list[Message] = [
    SYSTEM,
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nadd\n</think>\n\n2"},
    {"role": "user", "content": "sure?"},
]


def built_in(name: str) -> ChatTemplate:
    return ChatTemplate(TemplateEngine(BUILT_IN[name]), CONSTANTS, now=lambda: datetime(2024, 1, 1))


@pytest.mark.parametrize(
    ("name", "thinking", "expected"),
    [
        (
            "deepseek_v2",
            None,
            f"{BOS}You are terse.\n\nUser: 1+1?\n\nAssistant: <think>\nadd\n</think>\n\n2{EOS}"
            "User: sure?\n\nAssistant:",
        ),
        (
            "deepseek_v3",
            None,
            f"{BOS}You are terse.<｜User｜>1+1?<｜Assistant｜><think>\nadd\n</think>\n\n2{EOS}"
            "<｜User｜>sure?<｜Assistant｜>",
        ),
        (
            "deepseek_r1",
            None,
            f"{BOS}You are terse.<｜User｜>1+1?<｜Assistant｜>\n\n2{EOS}"
            "<｜User｜>sure?<｜Assistant｜><think>\n",
        ),
        (
            "deepseek_v3_1",
            None,
            f"{BOS}You are terse.<｜User｜>1+1?<｜Assistant｜></think>\n\n2{EOS}"
            "<｜User｜>sure?<｜Assistant｜></think>",
        ),
        (
            "deepseek_v3_1",
            True,
            f"{BOS}You are terse.<｜User｜>1+1?<｜Assistant｜></think>\n\n2{EOS}"
            "<｜User｜>sure?<｜Assistant｜><think>",
        ),
    ],
)
def test_prompts(name: str, thinking: bool | None, expected: str) -> None:
    assert built_in(name).prompt(THOUGHT, thinking=thinking) == expected


def published(name: str) -> ChatTemplate:
    return ChatTemplate(
        TemplateEngine((DATA / f"{name}.jinja").read_text(encoding="utf-8")), CONSTANTS
    )


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("conversation", [n for n in CONVERSATIONS if n != "one call"])
def test_same_as_the_published_form(name: str, conversation: str) -> None:
    """Where the built-in format renders, DeepSeek's own form gives the same text."""
    messages = CONVERSATIONS[conversation]
    for thinking in (True, False):
        for prompt in (True, False):
            try:
                actual = built_in(name).render(
                    messages, add_generation_prompt=prompt, thinking=thinking
                )
            except BadRequest:
                assert conversation in ("unknown role", "no content", "null content", "parts") or (
                    "call" in conversation and name == "deepseek_v2"
                )
                continue
            assert actual == published(name).render(
                messages, add_generation_prompt=prompt, thinking=thinking
            )


def test_two_rounds_of_calls_as_in_v3_0324() -> None:
    """The first V3 wrote the markers of the first round only; V3-0324 and R1-0528 write all."""
    messages = [SYSTEM, HELLO, CALL, RESULT, RESULT, WORDS_AND_CALL, RESULT]
    for more in ([], [ANSWER], [ANSWER, HELLO]):
        actual = built_in("deepseek_v3").render([*messages, *more], add_generation_prompt=True)
        expected = published("deepseek_v3_0324").render(
            [*messages, *more], add_generation_prompt=True
        )
        assert actual == expected
        assert actual.count("<｜tool▁calls▁begin｜>") == 2
        assert actual.count("<｜tool▁outputs▁begin｜>") == 2


def test_v2_refuses_tool_messages_by_name() -> None:
    with pytest.raises(BadRequest, match="no role 'tool'"):
        built_in("deepseek_v2").render(
            [ANSWER, {"role": "tool", "content": "x"}], add_generation_prompt=True
        )


def test_results_that_no_answer_follows_are_closed() -> None:
    prompt = built_in("deepseek_r1").render([CALL, RESULT, HELLO], add_generation_prompt=True)
    assert "<｜tool▁output▁end｜><｜tool▁outputs▁end｜><｜User｜>" in prompt


def test_choice() -> None:
    plain, thinks = byte_level(tokens=[*byte_level().tokens[:-2], "x", "y"]), byte_level()
    for model_type, vocabulary, expected in (
        ("deepseek_v2", thinks, "Assistant:"),
        ("deepseek_v3", plain, "<｜Assistant｜>"),
        ("deepseek_v3", thinks, "<｜Assistant｜><think>\n"),
    ):
        for source in (
            TokenizerSource(gguf_vocabulary=vocabulary),
            TokenizerSource(tokenizer_json=as_tokenizer_json(vocabulary)),
        ):
            template = chat_template_for(source, model_type)
            assert template is not None
            prompt = template.render([SYSTEM], add_generation_prompt=True)
            assert prompt.endswith("terse." + ("\n\n" if expected[0] == "A" else "") + expected)
    assert chat_template_for(TokenizerSource(), "llama") is None


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_checkpoint_that_carries_our_text_needs_no_process(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process guards against unknown text; this text is known."""

    def no_process(source: str) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("tribody.text.chat_template.TemplateProcess", no_process)
    source = TokenizerSource(chat_template=BUILT_IN[name], tokenizer_config={**CONSTANTS})
    template = chat_template_for(source, "deepseek_v3")
    assert template is not None
    assert template.prompt(THOUGHT) == built_in(name).prompt(THOUGHT)
    with pytest.raises(AssertionError, match="a process was started"):
        chat_template_for(TokenizerSource(chat_template=BUILT_IN[name] + " "), "deepseek_v3")


@pytest.mark.parametrize("folder", ["mini-r1", "mini-r1-fp8"])
def test_an_earlier_text_of_ours_is_known(folder: str) -> None:
    config = Path(deepseek_templates.__file__).parents[1] / "bundled" / folder
    text = json.loads((config / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    assert deepseek_templates.known(text) == deepseek_templates.R1
    assert deepseek_templates.known(text + " ") is None


def test_r1_without_thinking() -> None:
    prompt = built_in("deepseek_r1").prompt(
        [{"role": "user", "content": "17 + 25"}], thinking=False
    )
    assert prompt == f"{BOS}<｜User｜>17 + 25<｜Assistant｜><think>\n\n</think>\n\n"
