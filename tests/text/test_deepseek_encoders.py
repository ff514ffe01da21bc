"""V3.2's and V4's prompts, against literal texts in the form of the published encoders.

Both were also compared with the published programs on 3,000 random conversations each (V4's
transcribed): not one differed.
"""

from __future__ import annotations

import pytest

from tests.text.conversations import TOOLS
from tribody.core.errors import BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.deepseek_encoders import BOS, EFFORT_MAX, EOS
from tribody.text.tool_formats.written import instructions
from tribody.text.tool_messages import Message

SYSTEM: Message = {"role": "system", "content": "You help."}
USER: Message = {"role": "user", "content": "Beijing and Paris?"}
CALLS: Message = {
    "role": "assistant",
    "content": "Both.",
    "reasoning_content": "Two calls.",
    "tool_calls": [
        {
            "id": "a",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "北京", "days": 2}'},
        },
        {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ],
}
RESULT_A: Message = {"role": "tool", "tool_call_id": "a", "content": "25 °C"}
RESULT_B: Message = {"role": "tool", "tool_call_id": "b", "content": "9 °C"}
ANSWER: Message = {"role": "assistant", "content": "Warm.", "reasoning_content": "25 > 9"}
MORE: Message = {"role": "user", "content": "Thanks."}


def template(model_type: str) -> ChatTemplate:
    made = chat_template_for(TokenizerSource(), model_type)
    assert made is not None
    return made


def written(block: str) -> str:
    return (
        f"\n\n<｜DSML｜{block}>\n"
        '<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">北京</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n"
        '<｜DSML｜invoke name="weather">\n\n</｜DSML｜invoke>\n'
        f"</｜DSML｜{block}>"
    )


def test_v3_2_with_tools_thinking() -> None:
    prompt = template("deepseek_v32").prompt(
        [SYSTEM, USER, CALLS, RESULT_A, RESULT_B], thinking=True, tools=TOOLS
    )
    assert prompt == (
        f"{BOS}You help.\n\n{instructions('deepseek_v3_2', TOOLS)}"
        "<｜User｜>Beijing and Paris?<｜Assistant｜><think>Two calls.</think>Both."
        f"{written('function_calls')}{EOS}\n\n<function_results>\n<result>25 °C</result>"
        "\n<result>9 °C</result>\n</function_results>\n\n<think>"
    )


def test_v3_2_drops_thinking_before_the_last_user() -> None:
    prompt = template("deepseek_v32").prompt(
        [USER, CALLS, RESULT_A, RESULT_B, ANSWER, MORE], thinking=True
    )
    assert prompt == (
        f"{BOS}<｜User｜>Beijing and Paris?<｜Assistant｜></think>Both."
        f"{written('function_calls')}{EOS}\n\n<function_results>\n<result>25 °C</result>"
        f"\n<result>9 °C</result>\n</function_results>\n\n</think>Warm.{EOS}"
        "<｜User｜>Thanks.<｜Assistant｜><think>"
    )


def test_v3_2_without_thinking() -> None:
    for thinking in (False, None):
        prompt = template("deepseek_v32").prompt([SYSTEM, USER], thinking=thinking)
        assert prompt == f"{BOS}You help.<｜User｜>Beijing and Paris?<｜Assistant｜></think>"


def test_v4_keeps_thinking_where_there_are_tools() -> None:
    conversation = [SYSTEM, USER, CALLS, RESULT_B, RESULT_A, ANSWER, MORE]
    start = "<｜User｜>Beijing and Paris?<｜Assistant｜>"
    results = "<｜User｜><tool_result>25 °C</tool_result>\n\n<tool_result>9 °C</tool_result>"
    end = "<｜User｜>Thanks.<｜Assistant｜><think>"
    assert template("deepseek_v4").prompt(conversation, thinking=True, tools=TOOLS) == (
        f"{BOS}You help.\n\n{instructions('deepseek_v4', TOOLS)}{start}<think>Two calls.</think>"
        f"Both.{written('tool_calls')}{EOS}{results}<｜Assistant｜><think>25 > 9</think>"
        f"Warm.{EOS}{end}"
    )
    assert template("deepseek_v4").prompt(conversation) == (
        f"{BOS}You help.{start}</think>Both.{written('tool_calls')}{EOS}{results}"
        f"<｜Assistant｜></think>Warm.{EOS}{end}"
    )


def test_v4_joins_a_result_and_what_the_user_says_to_it() -> None:
    prompt = template("deepseek_v4").prompt([USER, CALLS, RESULT_A, RESULT_B, MORE], thinking=False)
    assert prompt.endswith(
        "<tool_result>25 °C</tool_result>\n\n<tool_result>9 °C</tool_result>\n\nThanks."
        "<｜Assistant｜></think>"
    )


def test_v4_effort() -> None:
    v4 = template("deepseek_v4")
    assert v4.efforts == {"max"}
    plain = v4.prompt([SYSTEM, USER])
    assert v4.prompt([SYSTEM, USER], effort="max") == BOS + EFFORT_MAX + plain[len(BOS) :]
    assert v4.prompt([SYSTEM, USER], effort="high") == plain
    silent = v4.prompt([SYSTEM, USER], thinking=False)
    assert v4.prompt([SYSTEM, USER], thinking=False, effort="max") == silent


@pytest.mark.parametrize("model_type", ["deepseek_v32", "deepseek_v4"])
def test_odd_orders_and_roles(model_type: str) -> None:
    model = template(model_type)
    assert model.prompt([SYSTEM], thinking=True) == f"{BOS}You help.<｜Assistant｜><think>"
    assert model.prompt([], thinking=False) == f"{BOS}<｜Assistant｜></think>"
    twice = model.prompt([USER, ANSWER, ANSWER], thinking=False)
    assert twice.endswith(f"Warm.{EOS}<｜Assistant｜></think>Warm.{EOS}<｜Assistant｜></think>")
    late = model.prompt([USER, ANSWER, SYSTEM, MORE], thinking=False)
    assert f"Warm.{EOS}You help.<｜User｜>Thanks." in late
    with pytest.raises(BadRequest, match="no role 'developer'"):
        model.prompt([{"role": "developer", "content": "x"}])
    with pytest.raises(BadRequest, match="text content only"):
        model.prompt([{"role": "user", "content": [{"type": "text", "text": "x"}]}])


def test_v3_2_refuses_a_result_without_a_call() -> None:
    for messages in ([USER, RESULT_A], [USER, ANSWER, RESULT_A], [USER, CALLS, *[RESULT_A] * 3]):
        with pytest.raises(BadRequest, match="must follow the tool_calls"):
            template("deepseek_v32").prompt(messages)


def test_arguments_that_are_no_object_are_shown_as_they_are() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{broken"}}
    prompt = template("deepseek_v4").prompt([USER, {"role": "assistant", "tool_calls": [call]}])
    assert '<｜DSML｜parameter name="arguments" string="true">{broken</｜DSML｜parameter>' in prompt
