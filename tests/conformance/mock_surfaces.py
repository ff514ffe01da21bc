"""The mock's answers on the Anthropic and the Responses surface, as their contracts have them."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.conformance.mock_model import Json, Said

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
                "mark": "stop_sequence"}  # fmt: skip


def as_chat(body: Json) -> Json:
    """The fields of a chat request that `said` reads, out of one of these surfaces."""
    given: Any = body.get("messages", body.get("input"))
    thinking: Any = body.get("thinking") or body.get("reasoning") or {}
    thinks = thinking.get("type") == "enabled" or thinking.get("effort") == "high"
    choice: Any = body.get("tool_choice")
    return {
        "messages": [{"content": given}] if isinstance(given, str) else given,
        "thinking": {"type": "enabled" if thinks else "disabled"},
        "tools": body.get("tools"),
        "tool_choice": choice.get("type") if isinstance(choice, dict) else choice,
        "max_tokens": body.get("max_tokens", body.get("max_output_tokens")),
        "stop": body.get("stop_sequences"),
    }


def made_tokens(turn: Said) -> int:
    return len(turn.reasoning or "") + len(turn.content) + sum(len(a) for _, a in turn.calls)


def blocks(turn: Said) -> list[Json]:
    found: list[Json] = []
    if turn.reasoning:
        found.append({"type": "thinking", "thinking": turn.reasoning, "signature": ""})
    if turn.content:
        found.append({"type": "text", "text": turn.content})
    for name, arguments in turn.calls:
        use = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", "name": name}
        found.append({**use, "input": json.loads(arguments)})
    return found


def message(turn: Said, stopped_by: str | None) -> Json:
    reason = "stop_sequence" if stopped_by else STOP_REASONS[turn.finish_reason]
    return {
        "id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": "mock",
        "content": blocks(turn), "stop_reason": reason, "stop_sequence": stopped_by,
        "usage": {"input_tokens": 20, "output_tokens": made_tokens(turn)},
    }  # fmt: skip


DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def message_events(whole: Json) -> list[Json]:
    """The events of a streamed message."""
    events: list[Json] = []
    usage: Any = whole["usage"]
    start = whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 0}}
    events.append({"type": "message_start", "message": start})
    events.append({"type": "ping"})
    content: Any = whole["content"]
    for index, block in enumerate(content):
        if block["type"] == "tool_use":
            text, kind, field = json.dumps(block["input"]), "input_json_delta", "partial_json"
            opened = block | {"input": {}}
        else:
            kind, field = DELTAS[block["type"]]
            text, opened = block[field], block | {field: ""}
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += [
            {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}}
            for piece in (text[:4], text[4:])
        ]
        events.append({"type": "content_block_stop", "index": index})
    delta = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    events.append({"type": "message_delta", "delta": delta, "usage": usage})
    return [*events, {"type": "message_stop"}]


def response(turn: Said) -> Json:
    output: list[Json] = []
    if turn.reasoning:
        part = {"type": "reasoning_text", "text": turn.reasoning}
        output.append({"id": "rs_1", "type": "reasoning", "summary": [], "content": [part]})
    if turn.content:
        text = {"type": "output_text", "text": turn.content, "annotations": []}
        output.append({"id": "msg_1", "type": "message", "role": "assistant",
                       "status": "completed", "content": [text]})  # fmt: skip
    for name, arguments in turn.calls:
        output.append({"id": "fc_1", "type": "function_call", "status": "completed",
                       "call_id": "call_1", "name": name, "arguments": arguments})  # fmt: skip
    cut = turn.finish_reason == "length"
    made = made_tokens(turn)
    return {
        "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": 1, "model": "mock",
        "status": "incomplete" if cut else "completed", "error": None, "store": False,
        "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None, "output": output,
        "usage": {
            "input_tokens": 20, "output_tokens": made, "total_tokens": 20 + made,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": len(turn.reasoning or "")},
        },
    }  # fmt: skip


def response_events(whole: Json) -> list[Json]:
    """The events of a streamed response, numbered."""
    begun = whole | {"status": "in_progress", "output": [], "usage": None}
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    output: Any = whole["output"]
    for index, item in enumerate(output):
        place: Json = {"output_index": index}
        events.append({"type": "response.output_item.added", "item": item, **place})
        place["item_id"] = item["id"]
        events += _item_events(item, place)
        events.append({"type": "response.output_item.done", "item": item, "output_index": index})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def _item_events(item: Any, place: Json) -> list[Json]:
    if item["type"] == "function_call":
        stem, field, text = "response.function_call_arguments", "arguments", item["arguments"]
        return [
            {"type": f"{stem}.delta", "delta": text, **place},
            {"type": f"{stem}.done", field: text, **place},
        ]
    part = item["content"][0]
    place = place | {"content_index": 0}
    kind = f"response.{part['type']}"
    deltas = [
        {"type": f"{kind}.delta", "delta": piece, **place}
        for piece in (part["text"][:4], part["text"][4:])
    ]
    return [
        {"type": "response.content_part.added", "part": part | {"text": ""}, **place},
        *deltas,
        {"type": f"{kind}.done", "text": part["text"], **place},
        {"type": "response.content_part.done", "part": part, **place},
    ]


def named_events(events: list[Json]) -> bytes:
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
    return "".join(lines).encode()
