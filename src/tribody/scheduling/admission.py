"""Requests that can never run are refused when they come."""

from __future__ import annotations

from tribody.core.errors import BadRequest
from tribody.core.request import Request


def refuse_impossible(request: Request, max_context: int, max_running: int) -> None:
    """Raises: BadRequest naming the value, the limit and the remedy."""
    num_prompt = len(request.prompt_token_ids)
    if num_prompt == 0:
        raise BadRequest("the prompt has no tokens; send at least one", param="prompt")
    if request.weight < 1:
        raise BadRequest(f"the request's weight is {request.weight}; the least is 1")
    if request.pooling != "none":
        _refuse_pooling(request, max_context)
        return
    if num_prompt >= max_context:
        raise BadRequest(
            f"the prompt has {num_prompt} tokens; this server's context is "
            f"{max_context} tokens, completion included: shorten the prompt",
            param="prompt",
            code="context_length_exceeded",
        )
    if request.sampling.max_tokens < 1:
        raise BadRequest("max_tokens must be at least 1", param="max_tokens")
    if not 1 <= request.n <= max_running:
        raise BadRequest(
            f"n is {request.n}; this server runs 1 to {max_running} at once", param="n"
        )
    if len(set(request.finished)) >= request.n:
        raise BadRequest("every choice of this request has ended already")


def _refuse_pooling(request: Request, max_context: int) -> None:
    num_prompt = len(request.prompt_token_ids)
    if num_prompt > max_context:
        raise BadRequest(
            f"the input has {num_prompt} tokens; this server's context is {max_context} tokens: "
            "shorten the input",
            param="input",
            code="context_length_exceeded",
        )
    assert request.sampling.max_tokens == 0, "what is pooled generates nothing"
    assert request.n == 1, "there is one embedding of a prompt"
