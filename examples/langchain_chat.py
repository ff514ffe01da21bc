"""LangChain's own DeepSeek package: streamed thinking and usage, and an agent's loop with a tool.

pip install langchain-deepseek
tribody serve scripted
python examples/langchain_chat.py
"""

from __future__ import annotations

import os

from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek

URL = os.environ.get("TRIBODY_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("TRIBODY_API_KEY", "unused")


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def stream() -> None:
    model = ChatDeepSeek(model="deepseek-reasoner", api_base=f"{URL}/v1", api_key=KEY)
    whole = AIMessageChunk(content="")
    for chunk in model.stream("17 + 25"):
        whole += chunk
    print("thinking:", whole.additional_kwargs["reasoning_content"])
    print("answer:", whole.content)
    usage = whole.usage_metadata
    print("usage:", usage["input_tokens"], "+", usage["output_tokens"], "=", usage["total_tokens"])


def call_a_tool() -> None:
    # Without thinking: LangChain does not send reasoning back, and with tools DeepSeek requires it.
    model = ChatDeepSeek(model="deepseek-chat", api_base=f"{URL}/v1", api_key=KEY)
    model = model.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Paris?")]
    while True:
        answer = model.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            break
        for call in answer.tool_calls:
            print("call:", call["name"], call["args"])
            messages.append(get_weather.invoke(call))
    print("answer:", answer.content)


if __name__ == "__main__":
    stream()
    call_a_tool()
