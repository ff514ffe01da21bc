"""DeepSeek's prompt formats as chat templates, for checkpoints that bring none.

DeepSeek published each of them as a template in the model's tokenizer_config.json; these are the
same formats written out plainly.  Tool messages are refused by name, not dropped.

    V2     bos, system "\\n\\n", "User: " .. "\\n\\n", "Assistant: " .. eos, "Assistant:"
    V3     bos, system texts joined by a blank line, <｜User｜>.., <｜Assistant｜>..eos
    R1     as V3; earlier answers lose their text up to </think>; opens <think>\\n
    V3.1   as V3; answers follow </think>; opens <think> when `thinking` is true, else </think>

A checkpoint may carry one of these texts as its own template.
"""

from __future__ import annotations

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
  {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception("this model's prompt format has no role '" ~ message['role'] ~ "'") -}}
  {%- elif message['tool_calls'] -%}
    {{- raise_exception('tool calls are not supported by the built-in prompt format') -}}
  {%- elif message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('\\n\\n' if ns.has_system else '') + message['content'] -%}
    {%- set ns.has_system = true -%}
  {%- endif -%}
{%- endfor -%}
{{- bos_token + ns.system -}}
"""

V3 = (
    _SYSTEM_FIRST
    + """\
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<｜User｜>' + message['content'] -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<｜Assistant｜>' + message['content'] + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""
)

R1 = (
    _SYSTEM_FIRST
    + """\
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<｜User｜>' + message['content'] -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}
"""
)

V3_1 = (
    _SYSTEM_FIRST
    + """\
{%- set turn = namespace(after_user=false) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<｜User｜>' + message['content'] -}}
    {%- set turn.after_user = true -%}
  {%- elif message['role'] == 'assistant' -%}
    {%- if turn.after_user -%}{{- '<｜Assistant｜></think>' -}}{%- endif -%}
    {%- set turn.after_user = false -%}
    {{- message['content'].split('</think>', 1)[-1] + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and turn.after_user -%}
  {{- '<｜Assistant｜>' + ('<think>' if thinking is defined and thinking else '</think>') -}}
{%- endif -%}
"""
)


ALL = frozenset({V2, V3, R1, V3_1})


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
    if model_type in ("deepseek_v2", "deepseek_v3"):
        return {
            "bos_token": "<｜begin▁of▁sentence｜>",
            "eos_token": "<｜end▁of▁sentence｜>",
        }
    return {}
