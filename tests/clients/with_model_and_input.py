"""A pytest plugin for openai-python's own tests of `responses.create`.

Those name neither a model nor an input, which OpenAI allows where a stored prompt has both.
Nothing is stored here, so both are filled in where they are missing.
"""

from __future__ import annotations

from openai.resources.responses import AsyncResponses, Responses

ASKED = {"model": "gpt-6-astra", "input": "string"}


def pytest_configure() -> None:
    for resource in (Responses, AsyncResponses):
        resource.create = _with_both(resource.create)  # type: ignore[method-assign]


def _with_both(create):
    def filled(self, **fields):
        return create(self, **(ASKED | fields))

    return filled
