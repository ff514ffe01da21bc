"""Calls, and the tools that may be called, as a prompt tells a model of them.

`instructions` is the part of the system message that lists the tools and shows the format;
`written_calls` is what an assistant that called them had written, and the parsers read.

Sources: DeepSeek-V2.5's card for the list of V3 and R1, which publish none, and the wording of
the engines' templates for them; V3.1's card; `encoding_dsv32.py` and `encoding_dsv4.py`;
Qwen2.5's chat template.  The texts are parts of those formats: models were trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tribody.text.tool_formats import dsml_calls
from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.special_token_calls import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    SEPARATOR,
)

Tool = Mapping[str, object]
"""As in OpenAI's API: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call in a conversation; `arguments` is the text of a JSON object, if all went well."""

    name: str
    arguments: str


def instructions(tool_format: ToolFormat, tools: Sequence[Tool]) -> str:
    """What the system message says of the tools."""
    functions = [_function(tool) for tool in tools]
    match tool_format:
        case "deepseek_v3":
            listed = "".join(
                f"- `{function.get('name')}`:\n```json\n{_json(function, indent=4)}\n```\n"
                for function in functions
            )
            return _V3.format(listed=listed)
        case "deepseek_v3_1":
            listed = "".join(
                f"### {function.get('name')}\nDescription: {function.get('description') or ''}\n\n"
                f"Parameters: {_json(function.get('parameters') or {})}\n\n"
                for function in functions
            )
            return _V3_1.format(listed=listed)
        case "deepseek_v3_2" | "deepseek_v4":
            text = _V3_2 if tool_format == "deepseek_v3_2" else _V4
            return text.format(listed="\n".join(map(_json, functions)))
        case "hermes":
            return _HERMES.format(listed="\n".join(map(_json, tools)))


def written_calls(tool_format: ToolFormat, calls: Sequence[Call]) -> str:
    """Calls as the model writes them after its content, which the format keeps apart or not."""
    match tool_format:
        case "deepseek_v3":
            each = (f"function{SEPARATOR}{c.name}\n```json\n{c.arguments}\n```" for c in calls)
            text = "\n".join(f"{CALL_BEGIN}{call}{CALL_END}" for call in each)
            return f"{CALLS_BEGIN}{text}{CALLS_END}"
        case "deepseek_v3_1":
            each = (f"{CALL_BEGIN}{c.name}{SEPARATOR}{c.arguments}{CALL_END}" for c in calls)
            return f"{CALLS_BEGIN}{''.join(each)}{CALLS_END}"
        case "deepseek_v3_2" | "deepseek_v4":
            block = f"{dsml_calls.TOKEN}{dsml_calls.BLOCKS[tool_format]}>"
            text = "\n".join(map(_invocation, calls))
            return f"\n\n<{block}\n{text}\n</{block}"
        case "hermes":
            each = (f'{{"name": {_json(c.name)}, "arguments": {c.arguments}}}' for c in calls)
            return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in each)


def arguments_object(arguments: str) -> dict[str, object]:
    """Arguments as an object; what is none becomes the value of one named `arguments`."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _invocation(call: Call) -> str:
    lines = [f'{dsml_calls.INVOKE} name="{call.name}">']
    for key, value in arguments_object(call.arguments).items():
        is_text = isinstance(value, str)
        lines.append(
            f'{dsml_calls.PARAMETER} name="{key}" string="{"true" if is_text else "false"}">'
            f"{value if is_text else _json(value)}{dsml_calls.PARAMETER_CLOSE}"
        )
    if len(lines) == 1:
        lines.append("")  # the published encoder joins no parameters to an empty line
    return "\n".join([*lines, dsml_calls.INVOKE_CLOSE])


def _function(tool: Tool) -> Mapping[str, object]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


_V3 = """\
## Tools

### Function

You have the following functions available:

{listed}
When a tool call is needed, you MUST use the following format to issue the call:
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>FUNCTION_NAME
```json
{{"param1": "value1", "param2": "value2"}}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

Make sure the JSON is valid."""

_V3_1 = """\
## Tools
You have access to the following tools:

{listed}IMPORTANT: ALWAYS adhere to this exact format for tool use:
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments\
<｜tool▁call▁end｜>{{additional_tool_calls}}<｜tool▁calls▁end｜>

Where:
- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces"""

# With the blank lines that llama.cpp's template has; the copies of the published program in vLLM
# and sglang have none, and otherwise the same words.
_V3_2 = """\
## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part \
of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists \
and objects should use JSON format. The "string" attribute should be set to "true" for string type \
parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider \
outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
{listed}
</functions>
"""

_V4 = """\
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by \
writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, \
booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside \
<think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{listed}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""

_HERMES = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{listed}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
