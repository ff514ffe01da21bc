"""Every model can be given tools: what its template cannot do is written into the messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.text.conversations import ANSWER, CALL, HELLO, ONE_CALL, RESULT, SYSTEM, TOOLS
from tests.text.tool_formats.answers import told
from tribody.core.errors import BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text import deepseek_templates
from tribody.text.chat_template import ChatTemplate, chat_template_for, continues_thinking
from tribody.text.template_engine import TemplateEngine
from tribody.text.tool_formats.formats import ToolFormat, tool_parser
from tribody.text.tool_formats.special_token_calls import CALLS_BEGIN
from tribody.text.tool_formats.written import instructions
from tribody.text.tool_messages import Message, ToolUse

DATA = Path(__file__).parent / "data" / "templates"
CONSTANTS = deepseek_templates.constants("deepseek_v3")


def own(name: str, *, knows: bool = True) -> ChatTemplate:
    source = (DATA / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(TemplateEngine(source), CONSTANTS, knows_token=lambda _text: knows)


NATIVE = {"writes_tools": True, "writes_calls": True}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2_5", ToolUse("hermes", wants_objects=True, **NATIVE)),
        ("qwen3", ToolUse("hermes", **NATIVE)),
        ("llama3_1", ToolUse("hermes")),  # its own form is not one of ours
        ("smollm2", ToolUse("hermes")),
        ("chatml", ToolUse("hermes")),
        ("deepseek_v3_0324", ToolUse("deepseek_v3", writes_calls=True)),
        ("deepseek_v3_1", ToolUse("deepseek_v3_1", writes_calls=True)),
        ("deepseek_v3", ToolUse("hermes")),  # it loses calls; see the stand-in below
        ("deepseek_r1", ToolUse("hermes")),
        ("deepseek_v2", ToolUse("hermes")),
    ],
)
def test_what_templates_do_is_found_by_rendering(name: str, expected: ToolUse) -> None:
    assert own(name).tool_use == expected
    assert own(name).tool_format == expected.tool_format


def test_a_template_that_loses_or_moves_content_beside_calls_is_not_used_for_them() -> None:
    """llama.cpp's text for R1's distilled models writes the content after its calls, closed."""
    source = (DATA / "qwen2_5.jinja").read_text(encoding="utf-8")
    content = "{{- '\\n' + message.content }}"
    assert source.count(content) == 1
    lost = source.replace(content, "")
    moved = lost.replace("{{- '}\\n</tool_call>' }}", "{{- '}\\n</tool_call>' ~ message.content }}")
    assert moved != lost
    for text in (lost, moved):
        assert ChatTemplate(TemplateEngine(text), CONSTANTS).tool_use == ToolUse("hermes")


def test_a_distilled_model_has_the_template_but_not_the_tokens() -> None:
    assert own("deepseek_v3_0324", knows=False).tool_use == ToolUse("hermes")
    assert own("qwen3", knows=False).tool_use == ToolUse("hermes", **NATIVE)


def test_templates_of_the_first_months_get_a_stand_in_for_calls() -> None:
    """They write the calls of a message without content only; plain conversations stay theirs."""
    vocabulary = json.dumps({"model": {"vocab": {CALLS_BEGIN: 1}}}).encode()
    for name, opening in (("deepseek_v3", ""), ("deepseek_r1", "<think>\n")):
        text = (DATA / f"{name}.jinja").read_text(encoding="utf-8")
        source = TokenizerSource(
            tokenizer_json=vocabulary, tokenizer_config={**CONSTANTS}, chat_template=text
        )
        template = chat_template_for(source, "deepseek_v3")
        assert template is not None
        assert template.tool_use == ToolUse("deepseek_v3", writes_calls=True)
        prompt = template.prompt([HELLO, {**CALL, "content": "See."}, RESULT, ANSWER, HELLO])
        assert "<｜Assistant｜>See.<｜tool▁calls▁begin｜>" in prompt
        assert prompt.endswith("<｜Assistant｜>" + opening)
        plain = TokenizerSource(chat_template=text)
        without = chat_template_for(plain, "deepseek_v3")
        assert without is not None
        assert without.tool_format == "hermes"


CONVERSATION: list[Message] = [SYSTEM, HELLO, {**CALL, "content": "See."}, RESULT, RESULT]
TEMPLATES: dict[str, ToolFormat] = {
    "deepseek_v3_0324": "deepseek_v3",
    "deepseek_v3_1": "deepseek_v3_1",
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "llama3_1": "hermes",
    "smollm2": "hermes",
    "deepseek_r1": "hermes",
    "deepseek_v2": "hermes",
    "deepseek_v32": "deepseek_v3_2",
    "deepseek_v4": "deepseek_v4",
}


@pytest.mark.parametrize(("name", "tool_format"), TEMPLATES.items())
def test_calls_are_rendered_as_they_are_parsed(name: str, tool_format: ToolFormat) -> None:
    template = (
        chat_template_for(TokenizerSource(), name) if name[-2:] in ("32", "v4") else own(name)
    )
    assert template is not None
    assert template.tool_format == tool_format
    prompt = template.prompt(CONVERSATION, tools=TOOLS)
    assert '"city"' in prompt  # the tools
    assert prompt.count("晴, 25 °C") == 2  # the results
    parser = tool_parser(tool_format)
    # The tools' part shows the form of a call, which may look like one: begin after it.
    events = told(parser.push(prompt[prompt.index("See.") :]) + parser.finish())
    calls = [event for event in events if isinstance(event, tuple)]
    assert events[0] == "See."
    assert [(n, json.loads(a)) for n, a in calls] == [
        ("weather", {"city": "北京"}),
        ("weather", {"city": "<Paris>"}),
    ]


def test_smollm2_is_told_of_tools_in_its_system_message() -> None:
    listed = instructions("hermes", TOOLS)
    prompt = own("smollm2").prompt([SYSTEM, HELLO, CALL, RESULT, RESULT], tools=TOOLS)
    assert prompt.startswith(f"<|im_start|>system\nYou are terse.\n\n{listed}<|im_end|>")
    assert (
        "<|im_start|>user\n<tool_response>\n晴, 25 °C\n</tool_response>\n"
        "<tool_response>\n晴, 25 °C\n</tool_response><|im_end|>"
    ) in prompt
    alone = own("smollm2").prompt([HELLO], tools=TOOLS)
    assert alone.startswith(f"<|im_start|>system\n{listed}<|im_end|>\n<|im_start|>user")
    assert own("smollm2").prompt([HELLO]) == own("smollm2").prompt([HELLO], tools=[])


def test_a_template_without_system_messages_is_told_by_the_user() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    )
    template = ChatTemplate(TemplateEngine(source), {})
    assert template.tool_use == ToolUse(has_system=False)
    prompt = template.prompt([{"role": "user", "content": "hi"}], tools=TOOLS)
    assert prompt == f"[user: {instructions('hermes', TOOLS)}\n\nhi]"


def test_native_templates_get_arguments_as_they_read_them() -> None:
    for name in ("qwen2_5", "qwen3"):
        prompt = own(name).prompt([HELLO, CALL, RESULT], tools=TOOLS)
        assert '{"name": "weather", "arguments": {"city": "北京"}}' in prompt
        assert "# Tools" in prompt


def test_no_content_beside_calls_is_an_empty_text() -> None:
    """Qwen3's published template looks into the content before it asks whether there is one."""
    source = (DATA / "qwen3.jinja").read_text(encoding="utf-8")
    strict = source.replace(
        "message.content if message.content is string else ''", "message.content"
    )
    assert strict != source
    template = ChatTemplate(TemplateEngine(strict), CONSTANTS)
    assert template.tool_use == ToolUse("hermes", **NATIVE)
    assert "<tool_call>" in template.prompt([HELLO, CALL, RESULT], tools=TOOLS)


def test_arguments_may_come_as_an_object() -> None:
    """Some clients send one; the wire says text."""
    prompt = own("smollm2").prompt([HELLO, ONE_CALL, RESULT])
    assert '<tool_call>\n{"name": "now", "arguments": {"tz": null}}\n</tool_call>' in prompt


PREFIX: Message = {"role": "assistant", "content": "```python\n", "prefix": True}


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("smollm2", "<|im_start|>assistant\n```python\n"),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n```python\n"),
        ("deepseek_v3", "<｜Assistant｜>```python\n"),
        ("deepseek_r1", "<｜Assistant｜><think>\n\n</think>\n\n```python\n"),
        ("deepseek_v3_1", "<｜Assistant｜></think>```python\n"),
    ],
)
def test_a_prefix_is_continued(name: str, end: str) -> None:
    for thinking in (True, False, None):
        assert own(name).prompt([HELLO, PREFIX], thinking=thinking).endswith(end)
    assert not continues_thinking([HELLO, PREFIX])


@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [
        ("deepseek_r1", "<｜Assistant｜><think>\n", "\n</think>\n\n"),
        ("deepseek_v3_1", "<｜Assistant｜><think>", "</think>"),
        ("qwen3", "<|im_start|>assistant\n<think>\n", "\n</think>\n\n"),
    ],
)
def test_a_prefix_of_thinking(name: str, opening: str, closing: str) -> None:
    thought = {**PREFIX, "content": "", "reasoning_content": "First,"}
    assert own(name).prompt([HELLO, thought]).endswith(f"{opening}First,")
    assert continues_thinking([HELLO, thought])
    both = {**PREFIX, "reasoning_content": "First,"}
    assert own(name).prompt([HELLO, both]).endswith(f"{opening}First,{closing}```python\n")
    assert not continues_thinking([HELLO, both])


def test_a_model_that_does_not_think_has_no_prefix_of_thinking() -> None:
    with pytest.raises(BadRequest, match="does not think"):
        own("smollm2", knows=False).prompt([HELLO, {**PREFIX, "reasoning_content": "x"}])
    with pytest.raises(BadRequest, match="must be text"):
        own("smollm2").prompt([HELLO, {**PREFIX, "content": [{"type": "text", "text": "x"}]}])


def test_an_empty_prefix_and_an_earlier_one_change_nothing() -> None:
    template = own("qwen3")
    assert template.prompt([HELLO, {**PREFIX, "content": ""}]) == template.prompt([HELLO])
    earlier = template.prompt([HELLO, PREFIX, HELLO])
    assert earlier == template.prompt(
        [HELLO, {"role": "assistant", "content": "```python\n"}, HELLO]
    )
