"""DeepSeek's prompt formats as chat templates, for checkpoints that bring none.

DeepSeek published each of them as a template in the model's tokenizer_config.json; these are the
same formats written out plainly.  Tools themselves are no part of them: `tool_messages` writes
them into the system message.  V2 has neither calls nor results, and refuses them by name.

    V2     bos, system "\\n\\n", "User: " .. "\\n\\n", "Assistant: " .. eos, "Assistant:"
    V3     bos, system texts joined by a blank line, <｜User｜>.., <｜Assistant｜>..eos; after
           results (<｜tool▁outputs▁begin｜>..) the answer follows without <｜Assistant｜>
    R1     as V3; earlier answers lose their text up to </think>; opens <think>\\n
    V3.1   as V3; answers follow </think>; opens <think> when `thinking` is true, else </think>

A checkpoint may carry one of these texts as its own template.
"""

from __future__ import annotations

import hashlib

from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_messages import ToolUse

V2 = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- 'User: ' + message['content'] + '\\n\\n' -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- 'Assistant: ' + message['content'] + eos_token -}}
  {%- elif message['role'] == 'system' -%}
    {{- message['content'] + '\\n\\n' -}}
  {%- else -%}
    {{- raise_exception("this model's prompt format has no role '" ~ message['role'] ~ "'") -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""

_SYSTEM_FIRST = """\
{%- set ns = namespace(system='', has_system=false) -%}
{%- for message in messages -%}
  {%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}
    {{- raise_exception("this model's prompt format has no role '" ~ message['role'] ~ "'") -}}
  {%- elif message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('\\n\\n' if ns.has_system else '') + message['content'] -%}
    {%- set ns.has_system = true -%}
  {%- endif -%}
{%- endfor -%}
{{- bos_token + ns.system -}}
"""

_V3_OR_R1 = (
    _SYSTEM_FIRST
    + """\
{%- set results = namespace(open=false) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'tool' -%}
    {{- '\\n' if results.open else '<｜tool▁outputs▁begin｜>' -}}
    {{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' -}}
    {%- set results.open = true -%}
  {%- elif message['role'] == 'user' -%}
    {{- ('<｜tool▁outputs▁end｜>' if results.open else '') + '<｜User｜>' + message['content'] -}}
    {%- set results.open = false -%}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<｜tool▁outputs▁end｜>' if results.open else '<｜Assistant｜>' -}}
    {%- set results.open = false -%}
    {%- if message['tool_calls'] -%}
      {{- ANSWER(message['content'] or '') + '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message['tool_calls'] -%}
        {{- ('' if loop.first else '\\n') + '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' -}}
        {{- call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] -}}
        {{- '\\n```<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' + eos_token -}}
    {%- else -%}
      {{- ANSWER(message['content']) + eos_token -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if results.open -%}
  {{- '<｜tool▁outputs▁end｜>' -}}
{%- elif add_generation_prompt -%}
  {{- '<｜Assistant｜>OPENING' -}}
{%- endif -%}
"""
)

V3 = (
    _V3_OR_R1.replace("ANSWER(message['content'] or '')", "(message['content'] or '')")
    .replace("ANSWER(message['content'])", "message['content']")
    .replace("OPENING", "")
)

R1 = (
    _V3_OR_R1.replace(
        "ANSWER(message['content'] or '')", "(message['content'] or '').split('</think>')[-1]"
    )
    .replace("ANSWER(message['content'])", "message['content'].split('</think>')[-1]")
    .replace("OPENING", "<think>\\n")
)

V3_1 = (
    _SYSTEM_FIRST
    + """\
{%- set turn = namespace(after_user=false, after_result=false) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<｜User｜>' + message['content'] -}}
    {%- set turn.after_user = true -%}
    {%- set turn.after_result = false -%}
  {%- elif message['role'] == 'tool' -%}
    {{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' -}}
    {%- set turn.after_user = false -%}
    {%- set turn.after_result = true -%}
  {%- elif message['role'] == 'assistant' -%}
    {%- if turn.after_user -%}{{- '<｜Assistant｜></think>' -}}{%- endif -%}
    {%- set turn.after_user = false -%}
    {%- if message['tool_calls'] -%}
      {{- (message['content'] or '') + '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message['tool_calls'] -%}
        {{- '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' -}}
        {{- call['function']['arguments'] + '<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' + eos_token -}}
    {%- elif turn.after_result -%}
      {{- message['content'] + eos_token -}}
    {%- else -%}
      {{- message['content'].split('</think>', 1)[-1] + eos_token -}}
    {%- endif -%}
    {%- set turn.after_result = false -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and turn.after_user -%}
  {{- '<｜Assistant｜>' + ('<think>' if thinking is defined and thinking else '</think>') -}}
{%- endif -%}
"""
)


_ALL = frozenset({V2, V3, R1, V3_1})

# Texts that earlier checkpoints carry, by hash; they are rendered by what replaced them.
_EARLIER = {
    "4f228194b44e09718a2651ddac65ceb22b6bd196812b46680bec9f231a3e24b6": V3,
    "dd4a6f3fd14085f54d1a35ba8f84d7b2e65b2c0636377d76819735eae487ba3a": R1,
    "28352c33eb7ac01ccd4ffe1e9b14b9d3792938f96ccc1ea7a4ff3308d8268b5c": V3_1,
}


def known(text: str) -> str | None:
    """The built-in template that a checkpoint's own text is, or was once; None for others."""
    if text in _ALL:
        return text
    return _EARLIER.get(hashlib.sha256(text.encode()).hexdigest())


def tool_use(text: str) -> ToolUse:
    """What a built-in template does with tools."""
    formats: dict[str, ToolFormat] = {
        V3: "deepseek_v3",
        R1: "deepseek_v3",
        V3_1: "deepseek_v3_1",
    }
    return ToolUse(formats[text], writes_calls=True) if text in formats else ToolUse()


def template_for(model_type: str, knows_think: bool) -> str | None:
    """The format for a checkpoint that brings no template; None for other families.

    deepseek_v2 gives V2.  deepseek_v3 covers V3, R1 and V3.1, which differ in nothing but their
    training and their vocabulary: where `<think>` is a token it is a reasoning model (R1), else
    V3.  V3.1 cannot be told from R1 this way, and brings its own template.
    """
    if model_type == "deepseek_v2":
        return V2
    if model_type == "deepseek_v3":
        return R1 if knows_think else V3
    return None


def constants(model_type: str) -> dict[str, str]:
    """bos and eos, for checkpoints whose tokenizer files do not name them."""
    if model_type in ("deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"):
        return {
            "bos_token": "<｜begin▁of▁sentence｜>",
            "eos_token": "<｜end▁of▁sentence｜>",
        }
    return {}
