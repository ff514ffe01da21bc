"""The schemas of /openapi.json: msgspec's, and what types do not say."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from tribody.core.sampling_ranges import LOGIT_BIAS_RANGE, Range
from tribody.server import limits
from tribody.server.anthropic_request import (
    ANTHROPIC_CHOICES,
    THINKING,
)
from tribody.server.errors import AnthropicError, ErrorBody
from tribody.server.file_store import FILE_ID
from tribody.server.responses_request import MESSAGE_ROLES
from tribody.server.routes import ROUTES
from tribody.server.thinking import EFFORTS, TYPES
from tribody.server.tools import CHOICES, NAME
from tribody.text.chat_template import THINKING_VARIABLES

Schema = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"

_NAME: Schema = {"maxLength": limits.MAX_NAME_CHARACTERS}
_USER: Schema = {"maxLength": limits.MAX_USER_CHARACTERS}
_TOKEN_IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": limits.MAX_TOKEN_ID},
}
_PROMPTS: Schema = {"minItems": 1, "maxItems": limits.MAX_PROMPTS}
_TEXT_OF_STOP: Schema = {"minLength": 1, "maxLength": limits.MAX_STOP_CHARACTERS}
_STOPS: Schema = {"maxItems": limits.MAX_STOPS, "items": {"type": "string", **_TEXT_OF_STOP}}
_OR_NULL: Schema = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}

_METADATA: Schema = {
    "propertyNames": {"maxLength": limits.MAX_METADATA_KEY},
    "additionalProperties": {"type": "string", "maxLength": limits.MAX_METADATA_VALUE},
}

# Of every request that has the field: keywords, merged into each alternative that they are about.
SHARED: dict[str, Schema] = {
    "messages": {"minItems": 1, "maxItems": limits.MAX_MESSAGES},
    "reasoning_effort": {"enum": list(EFFORTS)},
    "tools": {"maxItems": limits.MAX_TOOLS},
    "tool_choice": {"enum": list(CHOICES)},
    "stop": {**_STOPS, **_TEXT_OF_STOP},
    "stop_sequences": _STOPS,
    "user": _USER,
    "user_id": _USER,
    "logit_bias": {
        "maxProperties": limits.MAX_LOGIT_BIASES,
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    },
    "stop_token_ids": {"maxItems": limits.MAX_STOP_TOKEN_IDS, "items": _TOKEN_IDS["items"]},
    "metadata": {"maxProperties": limits.MAX_METADATA, **_METADATA},
    "chat_template_kwargs": {
        "properties": dict.fromkeys(THINKING_VARIABLES, _OR_NULL),
        "additionalProperties": False,
    },
}
# The same by type and field.
CONSTRAINTS: dict[str, dict[str, Schema]] = {
    "ChatMessage": {
        "content": {"maxItems": limits.MAX_PARTS},
        "name": _NAME,
        "tool_call_id": _NAME,
        "tool_calls": {"maxItems": limits.MAX_TOOL_CALLS},
    },
    "ContentPart": {"type": {"enum": ["text"]}},
    "FunctionTool": {
        "name": {"pattern": f"^{NAME.pattern}$"},
        "description": {"maxLength": limits.MAX_TOOL_DESCRIPTION},
        "parameters": {"properties": {"type": {"const": "object"}}},
    },
    "Tool": {"type": {"enum": ["function"]}},
    "NamedTool": {"type": {"enum": ["function"]}},
    "ThinkingSwitch": {"type": {"enum": list(TYPES)}},
    "AnthropicThinking": {"type": {"enum": list(THINKING)}},
    "AnthropicTool": {
        "name": {"pattern": f"^{NAME.pattern}$"},
        "type": {"enum": ["custom"]},
        "description": {"maxLength": limits.MAX_TOOL_DESCRIPTION},
        "input_schema": {"properties": {"type": {"const": "object"}}},
    },
    "AnthropicToolChoice": {"type": {"enum": [*ANTHROPIC_CHOICES, "tool"]}},
    "OutputConfig": {"effort": {"enum": list(EFFORTS)}},
    "OutputFormat": {"type": {"enum": ["json_schema"]}},
    "Metadata": {"user_id": _USER},
    "ResponsesRequest": {"input": {"minItems": 1, "maxItems": limits.MAX_MESSAGES}},
    "InputItem": {
        "content": {"maxItems": limits.MAX_PARTS},
        "output": {"maxItems": limits.MAX_PARTS},
    },
    "ResponsesTool": {
        "type": {"enum": ["function"]},
        "name": {"pattern": f"^{NAME.pattern}$"},
        "description": {"maxLength": limits.MAX_TOOL_DESCRIPTION},
        "parameters": {"properties": {"type": {"const": "object"}}},
    },
    "BatchRequest": {"input_file_id": {"pattern": f"^{FILE_ID.pattern}$"}},
    "ExpiresAfter": {
        "seconds": {"minimum": limits.MIN_KEEP_SECONDS, "maximum": limits.MAX_KEEP_SECONDS}
    },
    "ResponsesToolChoice": {"type": {"enum": ["function"]}},
    "ReasoningConfig": {"effort": {"enum": list(EFFORTS)}},
}
# Fields whose types say too little to add to it.
REPLACED: dict[str, dict[str, Schema]] = {
    "CompletionRequest": {
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {**_TOKEN_IDS, "minItems": 1},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, _TOKEN_IDS]}, **_PROMPTS},
            ]
        }
    },
}
REQUIRED = {
    "ContentPart": ["text"],
    "ResponsesTool": ["name"],
    "ResponsesToolChoice": ["name"],
}  # beside what types require
KEYWORDS = {
    "additionalProperties": "object",
    "enum": "string",
    "exclusiveMinimum": "number",
    "items": "array",
    "maxItems": "array",
    "maxLength": "string",
    "maxProperties": "object",
    "maximum": "number",
    "minItems": "array",
    "minLength": "string",
    "minimum": "number",
    "pattern": "string",
    "properties": "object",
    "propertyNames": "object",
}
# Which alternative of a field a keyword is about.


def components(names: list[str]) -> Schema:
    """All schemas by name; `names`: what a request may call its model."""
    kinds: list[type[msgspec.Struct]] = [ErrorBody, AnthropicError]
    for route in ROUTES:
        kinds += [kind for kind in (route.request, route.response, *route.events) if kind]
    _, schemas = msgspec.json.schema_components(
        kinds, schema_hook=_anything, ref_template=_REFERENCE
    )
    for route in ROUTES:
        if route.request is not None:
            _constrain_request(schemas[route.request.__name__], names)
    for table, change in ((REPLACED, _replace), (CONSTRAINTS, _constrain)):
        for name, fields in table.items():
            for field, constraint in fields.items():
                change(schemas[name]["properties"], field, constraint)
    for name, required in REQUIRED.items():
        schemas[name]["required"] += required
        for field in required:
            _not_null(schemas[name]["properties"], field)
    _divide(schemas)
    _divide_blocks(schemas)
    _divide_parts(schemas)
    return schemas


def event_schema(kinds: tuple[type[msgspec.Struct], ...]) -> Schema:
    """One event of a stream, as OpenAPI 3.2 describes them: JSON, but for `[DONE]`."""
    shown: tuple[type, ...] = (*kinds, ErrorBody, AnthropicError)
    shapes = [_reference(kind.__name__) for kind in shown]
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": shapes},
    }
    properties = {"event": {"type": "string"}, "data": {"anyOf": [{"const": "[DONE]"}, data]}}
    return {"type": "object", "properties": properties, "required": ["data"]}


def _anything(kind: type) -> Schema:
    """`object`: any JSON.  (msgspec takes no empty schema.)"""
    if kind is object:
        return {"description": "Any JSON."}
    raise NotImplementedError


def _constrain_request(schema: Schema, names: list[str]) -> None:
    properties = schema["properties"]
    if "model" in properties:
        properties["model"] = {"type": "string", "enum": names}
    for field, constraint in SHARED.items():
        if field in properties:
            _constrain(properties, field, constraint)
    for field, bounds in limits.NUMBERS.items():
        if field in properties:
            _constrain(properties, field, _of_range(bounds))
            if field in limits.DEFAULTS:
                properties[field]["default"] = limits.DEFAULTS[field]
    if "logit_bias" in properties:
        values = {"type": "number", **_of_range(LOGIT_BIAS_RANGE)}
        _constrain(properties, "logit_bias", {"additionalProperties": values})


def _of_range(bounds: Range) -> Schema:
    lower = "exclusiveMinimum" if bounds.exclusive_minimum else "minimum"
    return {lower: bounds.minimum, "maximum": bounds.maximum}


def _replace(properties: Schema, field: str, schema: Schema) -> None:
    properties[field] = schema


def _constrain(properties: Schema, field: str, constraint: Schema) -> None:
    """Add each keyword to the alternatives whose type it is about; null stays allowed."""
    schema = properties[field]
    for alternative in schema.get("anyOf", [schema]):
        kind = alternative.get("type")
        for keyword, value in constraint.items():
            if KEYWORDS[keyword] == ("number" if kind == "integer" else kind):
                alternative[keyword] = value


# --- what one field says about others --------------------------------------------------------

# By type: a field, and what else is needed for its values.
VARIANTS: dict[str, tuple[str, dict[tuple[str, ...], tuple[str, ...]]]] = {
    "ChatMessage": (
        "role",
        {
            ("system", "developer", "user"): ("content",),
            ("tool",): ("content", "tool_call_id"),
            ("assistant",): (),  # content or calls
        },
    ),
    "ResponseFormat": ("type", {("text", "json_object"): (), ("json_schema",): ("json_schema",)}),
    "TextFormat": ("type", {("text", "json_object"): (), ("json_schema",): ("name",)}),
    "InputItem": (
        "type",
        {
            ("message",): ("role", "content"),
            ("function_call",): ("call_id", "name", "arguments"),
            ("function_call_output",): ("call_id", "output"),
            ("reasoning",): (),
        },
    ),
}
PARTS_NEED = {
    ("input_text", "output_text", "text", "reasoning_text"): ("text",),
    ("refusal",): ("refusal",),
}
BLOCKS_NEED = {
    "text": ("text",),
    "thinking": (),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}
BLOCKS_OF = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
}


def _divide(schemas: Schema) -> None:
    for name, (field, kinds) in VARIANTS.items():
        whole = schemas[name]
        made = [_variant(whole, field, values, needs) for values, needs in kinds.items()]
        schemas[name] = {"title": name, "anyOf": made}
    message = schemas["InputItem"]["anyOf"][0]  # whose type may be left out
    message["required"].remove("type")
    message["properties"]["type"] = {"anyOf": [message["properties"]["type"], {"type": "null"}]}
    pattern = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    schemas["TextFormat"]["anyOf"][1]["properties"]["name"] = pattern
    named = copy.deepcopy(schemas["JsonSchemaFormat"])
    named["properties"]["name"] = pattern
    named["required"] = ["name"]
    schemas["ResponseFormat"]["anyOf"][1]["properties"]["json_schema"] = named


def _divide_blocks(schemas: Schema) -> None:
    """Anthropic's content blocks: what each type needs, and who may send which."""
    block, message = schemas["Block"], schemas["AnthropicMessage"]
    for kind, needs in BLOCKS_NEED.items():
        schemas[f"Block_{kind}"] = _variant(block, "type", (kind,), needs)
    schemas["Block_tool_use"]["properties"]["input"] = {"type": "object"}
    _of_blocks(schemas["Block_tool_result"], "content", ("text",))
    made = []
    for role, kinds in BLOCKS_OF.items():
        made.append(_variant(message, "role", (role,), ()))
        _of_blocks(made[-1], "content", kinds)
    schemas["AnthropicMessage"] = {"title": "AnthropicMessage", "anyOf": made}
    for name in ("MessagesRequest", "CountTokensRequest"):
        _of_blocks(schemas[name], "system", ("text",))


def _divide_parts(schemas: Schema) -> None:
    """The Responses API's: a part needs what its type names where its item is read for it."""
    made = [_variant(schemas["InputPart"], "type", k, n) for k, n in PARTS_NEED.items()]
    schemas["InputPart_read"] = {"anyOf": made}
    message, _, output, reasoning = schemas["InputItem"]["anyOf"]
    _constrain(message["properties"], "role", {"enum": list(MESSAGE_ROLES)})
    _constrain(output["properties"], "call_id", _NAME)
    for item, field in ((message, "content"), (output, "output"), (reasoning, "content")):
        _constrain(item["properties"], field, {"items": _reference("InputPart_read")})


def _of_blocks(schema: Schema, field: str, kinds: tuple[str, ...]) -> None:
    items = {"anyOf": [_reference(f"Block_{kind}") for kind in kinds]}
    _constrain(schema["properties"], field, {"items": items, "maxItems": limits.MAX_PARTS})


def _reference(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(name=name)}


def _variant(schema: Schema, field: str, values: tuple[str, ...], needs: tuple[str, ...]) -> Schema:
    """`schema` where `field` is one of `values`, and the fields in `needs` are there."""
    made = copy.deepcopy(schema)
    made.pop("title", None)
    properties = made["properties"]
    properties[field] = {"type": "string", "enum": list(values)}
    made["required"] = list(dict.fromkeys([*made["required"], field, *needs]))
    for name in needs:
        _not_null(properties, name)
    return made


def _not_null(properties: Schema, field: str) -> None:
    properties[field].pop("default", None)
    if "anyOf" in properties[field]:
        kinds = [kind for kind in properties[field]["anyOf"] if kind != {"type": "null"}]
        properties[field]["anyOf"] = kinds
