"""LiteLLM's `deepseek/` provider: streamed thinking, a streamed tool call and its result, usage.

pip install "litellm[mcp]"
tribody serve scripted
python examples/litellm_deepseek.py
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches prices at import

import litellm

litellm.suppress_debug_info = True

URL = os.environ.get("TRIBODY_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("TRIBODY_API_KEY", "unused")
MODEL = "deepseek/deepseek-reasoner"
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


def ask(messages, **more):
    """The streamed answer, put together."""
    chunks = litellm.completion(
        model=MODEL,
        api_base=f"{URL}/v1",
        api_key=KEY,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    return litellm.stream_chunk_builder(list(chunks), messages=messages)


def main() -> None:
    answered = ask([{"role": "user", "content": "17 + 25"}])
    message, usage = answered.choices[0].message, answered.usage
    print("thinking:", message.reasoning_content)
    print("answer:", message.content)
    print("usage:", usage.prompt_tokens, "+", usage.completion_tokens, "=", usage.total_tokens)

    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    while True:
        message = ask(messages, tools=TOOLS).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            print("call:", call.function.name, call.function.arguments)
            city = json.loads(call.function.arguments)["city"]
            result = f"sunny in {city}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print("answer:", message.content)


if __name__ == "__main__":
    main()
