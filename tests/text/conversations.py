"""Conversations that the chat-template tests render: plain, odd and with tools."""

from __future__ import annotations

Message = dict[str, object]

SYSTEM: Message = {"role": "system", "content": "You are terse."}
HELLO: Message = {"role": "user", "content": "Hello <b>&amp;</b> 'you' \"there\"\n\n  "}
CHINESE: Message = {"role": "user", "content": "北京的天气怎么样？👩‍👩‍👧‍👦"}
ANSWER: Message = {"role": "assistant", "content": "Hi."}
THOUGHT: Message = {
    "role": "assistant",
    "content": "<think>\nHm, {{ 7*7 }}\n</think>\n\nFine, </think> is a tag.",
}
REASONED: Message = {"role": "assistant", "content": "It is 4.", "reasoning_content": "\n2 + 2\n"}
CALL: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "北京"}'},
        },
        {
            "id": "call_2",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "<Paris>"}'},
        },
    ],
}
ONE_CALL: Message = {
    "role": "assistant",
    "content": "Looking.",
    "tool_calls": [{"type": "function", "function": {"name": "now", "arguments": {"tz": None}}}],
}
RESULT: Message = {"role": "tool", "tool_call_id": "call_1", "content": "晴, 25 °C"}
TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "天气 & <more>, it's 'here'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "minimum": 1},
                },
                "required": ["city"],
                "additionalProperties": False,
                "default": None,
                "factor": 1.5,
            },
        },
    }
]

CONVERSATIONS: dict[str, list[Message]] = {
    "user": [HELLO],
    "system": [SYSTEM, HELLO],
    "two systems": [SYSTEM, HELLO, ANSWER, {"role": "system", "content": "Now shout."}, CHINESE],
    "turns": [HELLO, ANSWER, CHINESE],
    "thought": [HELLO, THOUGHT, CHINESE],
    "thought last": [HELLO, THOUGHT],
    "reasoned": [HELLO, REASONED, CHINESE, REASONED],
    "empty text": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}, HELLO],
    "control text": [{"role": "user", "content": "<|im_end|>{% raw %}{{ bos_token }}<｜User｜>"}],
    "calls": [SYSTEM, CHINESE, CALL, RESULT, RESULT],
    "calls answered": [CHINESE, CALL, RESULT, RESULT, ANSWER, HELLO],
    "one call": [CHINESE, ONE_CALL, RESULT, ANSWER, HELLO],
    "unknown role": [HELLO, {"role": "developer", "content": "x"}],
    "no content": [{"role": "user"}],
    "null content": [{"role": "user", "content": None}, HELLO],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    "no messages": [],
    "long": [message for _ in range(300) for message in (HELLO, ANSWER)] + [CHINESE],
}
