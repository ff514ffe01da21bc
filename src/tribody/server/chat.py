"""A chat request on its way to the engine: checked, rendered, tokenized, ready to run.

`ChatRequest` is the internal form of every chat: the surfaces (openai_chat, anthropic, responses)
translate what they get into it, and the pieces of the answer back.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tribody.core.api_settings import ProfileName
from tribody.core.errors import BadRequest, BadValue
from tribody.core.principal import Principal
from tribody.core.request import SamplingParams, Thinking
from tribody.server import thinking, validation
from tribody.server.answer_grammar import answer_grammar
from tribody.server.call import Call
from tribody.server.generation import Generation, Prompt
from tribody.server.messages import template_messages
from tribody.server.models_table import ServedModel, ServedName
from tribody.server.profiles import PROFILES, Profile
from tribody.server.rendering import ChoiceRenderer
from tribody.server.service import Service, engine_request
from tribody.server.tools import Toolbox, toolbox
from tribody.server.types import UNSET, CacheExplanation, ChatRequest, UnsetType
from tribody.text.answer_stream import AnswerStream
from tribody.text.chat_template import continues_thinking
from tribody.text.reasoning import Part, prompt_opens_thinking
from tribody.text.tool_formats.formats import MARKERS, ToolFormat, tool_parser

WITHOUT_EFFECT = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
# What DeepSeek accepts of a thinking model's request and does not follow.


@dataclass(frozen=True)
class ChatWork:
    """One accepted chat request, ready to run."""

    fields: ChatRequest
    ignored: list[str]
    model: ServedModel
    prompt: Prompt
    reasoning: bool  # the answer's messages carry reasoning_content
    caller: Principal
    explanation: CacheExplanation | UnsetType = UNSET


@dataclass(frozen=True)
class Rendered:
    """A chat request's prompt.  `thinks`: the model may think before it answers, as was wished or
    as its template has it; `opens_thinking`: the prompt ends in an open `<think>`."""

    text: str
    tools: Toolbox
    tool_format: ToolFormat | None  # of calls; None: no tool may be called
    thinks: bool
    opens_thinking: bool
    without_effect: list[str]


def generation_for(service: Service, work: ChatWork, call: Call) -> Generation:
    """The generation that `work` asks for."""
    return Generation(service, work.model, [work.prompt], call)


def prepare(
    service: Service, fields: ChatRequest, ignored: list[str], caller: Principal
) -> ChatWork:
    """Check, render and tokenize; runs in a text thread.  `ignored` names fields without effect.

    Raises: BadRequest for everything that is wrong with the request.
    """
    profile = PROFILES[caller.api.profile]
    num_logprobs = _check_fields(fields)
    served = service.find_model(fields.model, caller)
    model, info = served.model, served.model.engine.info
    rendered = render(served, fields, caller.api.profile)
    _check_thinking(fields, rendered, profile)
    ids = prompt_ids(model, rendered)
    max_tokens = _max_tokens(fields, profile, len(ids), info.max_context_tokens, rendered.thinks)
    sampling = validation.sampling_params(
        fields, vocab_size=info.vocab_size, max_tokens=max_tokens, num_logprobs=num_logprobs
    )
    without_effect = list(rendered.without_effect)
    if rendered.thinks and caller.api.sampling == "deepseek":
        sampling = _thinking_sampling(sampling, profile)
        without_effect += [n for n in WITHOUT_EFFECT if getattr(fields, n) is not None]
    free: Thinking = "may" if rendered.thinks else "none"
    free = "open" if rendered.opens_thinking else free
    sampling = msgspec.structs.replace(
        sampling,
        thinking="open" if rendered.opens_thinking else "may",
        markers=MARKERS[rendered.tool_format] if rendered.tool_format else (),
        grammar=answer_grammar(fields, rendered.tools, model, free, service.grammars),
    )
    request = engine_request(fields, ids, sampling, caller)
    recent, key = service.recent_prompts, (model.model_id, request.cache_salt)
    explanation: CacheExplanation | UnsetType = UNSET
    if fields.explain_cache:
        explanation = recent.explain(key, ids, model.tokenizer, info.page_size)
    recent.remember(key, ids)
    renderers = [_renderer(model, sampling, rendered, choice) for choice in range(request.n)]
    return ChatWork(
        fields,
        ignored + without_effect,
        model,
        Prompt(request, renderers),
        rendered.opens_thinking,
        caller,
        explanation,
    )


def _renderer(
    model: ServedModel, sampling: SamplingParams, rendered: Rendered, choice: int
) -> ChoiceRenderer:
    stream = AnswerStream(model.tokenizer, sampling.stop, sampling.thinking, sampling.markers)
    section: Part | None = "reasoning" if rendered.opens_thinking else None
    if rendered.tool_format is None:
        return ChoiceRenderer(choice, stream, section=section)
    # An answer that follows a grammar writes calls that can be told before they are whole.
    parser = tool_parser(rendered.tool_format, live=sampling.grammar is not None)
    return ChoiceRenderer(choice, stream, parser, section)


def render(served: ServedName, fields: ChatRequest, profile: ProfileName) -> Rendered:
    """The prompt.  Whether to think: the request says, else the name that it used, else the
    profile, else the template.

    Raises: BadRequest.
    """
    tools = toolbox(fields)
    messages = template_messages(fields.messages)
    template = served.model.chat_template
    if template is None:
        raise BadRequest(
            f"The model {served.model.model_id!r} has no chat template; use /v1/completions.",
            param="model",
        )
    asked, names = thinking.asked(fields)
    effort = thinking.effort(fields)
    wish = asked if asked is not None else served.thinking
    wish = wish if wish is not None else PROFILES[profile].thinks_by_default
    switch = served.model.has_thinking_switch
    ignored = [] if switch else names
    if effort is not None and effort not in template.efforts:
        effort = None
        ignored.append("reasoning_effort")
    offered = tools.tools if tools.may_call else None
    text = template.prompt(messages, thinking=wish, tools=offered, effort=effort)
    opens = prompt_opens_thinking(text) or continues_thinking(messages)
    tool_format = template.tool_format if tools.may_call else None
    return Rendered(text, tools, tool_format, opens or (switch and wish is True), opens, ignored)


def prompt_ids(model: ServedModel, rendered: Rendered) -> list[int]:
    """Its tokens.  Raises: BadRequest if they can hardly fit, or for text that has none."""
    most = model.engine.info.max_context_tokens
    validation.refuse_hopeless(rendered.text, model.longest_token_bytes, most, "messages")
    return model.tokenizer.encode(rendered.text, add_special_tokens=False)


def _check_fields(fields: ChatRequest) -> int:
    """Check what only chat has; returns `num_logprobs` for SamplingParams."""
    if fields.top_logprobs is not None and fields.top_logprobs > 0 and not fields.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    given = {fields.max_tokens, fields.max_completion_tokens} - {None}
    if len(given) > 1:
        raise BadRequest(
            "max_tokens and max_completion_tokens differ; give one of them.", param="max_tokens"
        )
    return (fields.top_logprobs or 0) if fields.logprobs else -1


def _check_thinking(fields: ChatRequest, rendered: Rendered, profile: Profile) -> None:
    """The profile's rules of what a model that thinks may be asked."""
    tools, thinks = rendered.tools, rendered.thinks
    owed = thinks and bool(tools.tools) and profile.wants_reasoning_back
    for i, message in enumerate(fields.messages):
        param = f"messages[{i}].reasoning_content"
        given = message.reasoning_content is not None
        if given and profile.refuses_reasoning and not message.prefix:
            raise BadRequest(
                "reasoning_content of earlier answers must not be sent back; leave it out of the "
                "messages.",
                param=param,
            )
        if owed and message.tool_calls and not given:
            raise BadRequest(
                "The `reasoning_content` in the thinking mode must be passed back to the API.",
                param=param,
            )
    if not thinks:
        return
    if fields.logprobs and not profile.thinking_has_logprobs:
        raise BadRequest("A thinking model gives no logprobs; leave them out.", param="logprobs")
    if tools.must_call and not profile.thinking_may_be_forced:
        raise BadRequest(
            "A thinking model cannot be made to call a tool: set tool_choice to 'auto' or 'none', "
            "or disable thinking.",
            param="tool_choice",
        )


def _max_tokens(
    fields: ChatRequest, profile: Profile, num_prompt: int, context: int, thinks: bool
) -> int:
    budget = profile.thinking if thinks else profile.plain
    asked, param = fields.max_tokens, "max_tokens"
    if asked is None:
        asked, param = fields.max_completion_tokens, "max_completion_tokens"
    if asked is not None and asked > budget.maximum:
        raise BadValue(f"{param} must be at most {budget.maximum}, not {asked}.", param=param)
    left = validation.completion_budget(num_prompt, asked, context, param="messages")
    return left if asked is not None else min(left, budget.default)


def _thinking_sampling(sampling: SamplingParams, profile: Profile) -> SamplingParams:
    return msgspec.structs.replace(
        sampling,
        temperature=profile.thinking_temperature,
        top_p=profile.thinking_top_p,
        frequency_penalty=0.0,
        presence_penalty=0.0,
    )
