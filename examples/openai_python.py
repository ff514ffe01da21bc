"""openai-python with a DeepSeek model: thinking, a tool, JSON, usage.

    pip install openai
    tribody serve scripted
    python examples/openai_python.py

TRIBODY_URL names another server, TRIBODY_MODEL another model.
"""

from __future__ import annotations

import json
import os

from openai import OpenAI

URL = os.environ.get("TRIBODY_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("TRIBODY_MODEL", "deepseek-reasoner")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def get_weather(city: str) -> str:
    return f"sunny in {city}"


def stream(client: OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "17 + 25"}], stream=True
    )
    thinking, answer = "", ""
    for chunk in chunks:
        if chunk.usage:
            told = chunk.usage
        for choice in chunk.choices:
            thinking += getattr(choice.delta, "reasoning_content", None) or ""
            answer += choice.delta.content or ""
    print("thinking:", thinking)
    print("answer:", answer)
    print("usage:", told.prompt_tokens, "+", told.completion_tokens, "=", told.total_tokens)


def call_a_tool(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    while True:
        answered = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        message = answered.choices[0].message
        messages.append(message.model_dump(exclude_none=True))  # with the reasoning: it is needed
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            print("call:", call.function.name, call.function.arguments)
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print("answer:", message.content)


def follow_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "celsius": {"type": "integer"}},
        "required": ["city", "celsius"],
        "additionalProperties": False,
    }
    answered = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Paris has 21 degrees. Say that as JSON."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "weather", "schema": schema, "strict": True},
        },
    )
    print("json:", sorted(json.loads(answered.choices[0].message.content)))


def main() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("TRIBODY_API_KEY", "unused"))
    stream(client)
    call_a_tool(client)
    follow_a_schema(client)


if __name__ == "__main__":
    main()
