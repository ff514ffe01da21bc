"""What `st run` does to this server beyond its own: bounded work, and a reason for every refusal.

Work is bounded here and not by the API: values are only ever lowered from one that is valid, so
that no wrong request becomes right, and a request without a bound gets one.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis

from tests.server.refusals import check_reason, respelled

MOST_TOKENS = 4
BUDGETS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
MOST_CHOICES = 2
CHOICES = ("n", "best_of")
LARGEST = 393_216  # that may be asked for: see server/limits

# Why a request that keeps to its schema may still be a 400: what schemas cannot say.
REASONS = re.compile(
    "|".join(
        [
            # Fields that contradict or need each other.
            r"^stream_options needs stream",
            r"^top_logprobs needs logprobs",
            r"^max_tokens and max_completion_tokens differ",
            r"contradict each other; give one of them",
            r"^echo together with logprobs",
            r"^best_of other than n",
            r"^\d+ prompts times n = ",
            r"^suffix needs a prompt of text",
            r"^prompt is empty",
            r"must be a string, token ids, or a list of one of them",
            r"^Give either prompt or messages",
            r"^Prompt must contain the word 'json'",
            r"^tool_choice '\w+' needs tools",
            r"^tool_choice names .* which is not among the tools",
            r"^tool_choice of type 'tool' needs name",
            r"^tools\[\d+\].*\bname .* is used twice",
            r"(response_format|format) cannot be followed by an answer that was begun",
            r"format (of type 'json_schema' )?needs a? ?schema",
            # The order of messages.
            r"^prefix: true belongs to the last message",
            r"content or tool_calls must be set",
            r"^\w+\[\d+\]: an assistant message with 'tool_calls' must be followed by",
            r"with role 'tool' must be a response to",
            r"makes \d+ calls; at most \d+ are allowed",
            r"^The last message calls tools; send their results",
            r"^The `.*` in the thinking mode must be passed back",
            r"^A thinking model cannot be made to call a tool",
            # What this model or this conversation has no room or no word for.
            r"^This model's maximum context length is ",
            r" holds a token id that is not in \[0, \d+\)",
            r"^dimensions must be \d+",
            r"encrypted_content is none of this server's",
            # JSON schemas that are sent in a request.
            r"^(tools|response_format|text\.format|output_config\.format)\b.*"
            r"(schema|parameters|properties|strict|\$ref|enum)",
        ]
    ),
    re.DOTALL,
)


@schemathesis.hook
def before_call(ctx: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Lower what makes work, spell whole numbers without a point, and send no file that is none.

    To JSON Schema 10.0 is an integer like 10.  Not here (nor at DeepSeek or OpenAI): a field of
    whole numbers takes those that are written as such.
    """
    case.body = respelled(case.body)
    if not isinstance(case.body, dict) or "/tokenize" in case.path:
        return
    if case.media_type == "multipart/form-data":
        # Forms have no types: what is no text would come as one, such as the word null.
        if not isinstance(case.body.get("file"), str | bytes):
            case.body.pop("file", None)
        return
    for names, most, largest in ((BUDGETS, MOST_TOKENS, LARGEST), (CHOICES, MOST_CHOICES, 128)):
        for name in names:
            value = case.body.get(name)
            if type(value) is int and most < value <= largest:
                case.body[name] = most
    if all(case.body.get(name) is None for name in BUDGETS):
        case.body["max_tokens"] = MOST_TOKENS


@schemathesis.check
def a_reason_that_no_schema_can_say(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 400 to a valid request gives one of REASONS."""
    check_reason(response, case, REASONS)
