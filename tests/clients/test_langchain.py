"""LangChain's standard tests of a chat model, through its OpenAI and its DeepSeek package."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class WithServer(ChatModelIntegrationTests):
    url = ""
    base_url_field = ""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, url: str) -> None:
        cls.url = url

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            self.base_url_field: f"{self.url}/v1",
            "api_key": "unused",
            "model": "deepseek-chat",
        }

    @property
    def model_override_value(self) -> str:
        return "scripted"  # not an alias: answers name the model that they are from

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestOpenAI(WithServer):
    base_url_field = "base_url"

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI


class TestDeepSeek(WithServer):
    base_url_field = "api_base"

    @property
    def chat_model_class(self) -> type[ChatDeepSeek]:
        return ChatDeepSeek


def streamed(model: object, text: str) -> AIMessageChunk:
    whole = AIMessageChunk(content="")
    for chunk in model.stream(text):  # type: ignore[attr-defined]
        whole += chunk
    return whole


def test_deepseek_streams_thinking_and_usage(url: str) -> None:
    model = ChatDeepSeek(model="deepseek-reasoner", api_base=f"{url}/v1", api_key="unused")
    whole = streamed(model, "[[think: 17 and 25]] [[say: 42]]")
    assert whole.additional_kwargs["reasoning_content"] == "17 and 25"
    assert whole.content == "42"
    usage = whole.usage_metadata
    assert usage is not None
    # A token is a byte; the end of thinking and of the answer are one each.
    assert usage["output_tokens"] == len("17 and 25") + 1 + len("42") + 1
    assert usage["output_token_details"]["reasoning"] == len("17 and 25") + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_deepseek_streams_parallel_calls(url: str) -> None:
    model = ChatDeepSeek(model="deepseek-reasoner", api_base=f"{url}/v1", api_key="unused")
    asked = '[[call: get_weather {"city": "Paris"}]] [[call: get_weather {"city": "北京"}]]'
    whole = streamed(model.bind_tools([get_weather]), asked)
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "北京"}),
    ]
    assert len({call["id"] for call in whole.tool_calls}) == 2
    assert whole.response_metadata["finish_reason"] == "tool_calls"
