"""The list of all checks, by section, in the order in which they run."""

from __future__ import annotations

from collections.abc import Collection

from tribody.conformance.check import Section
from tribody.conformance.checks import (
    anthropic,
    batches,
    beta,
    cache,
    catalogue,
    completions,
    concurrency,
    embeddings,
    endpoints,
    errors,
    hygiene,
    plain,
    request_fields,
    responses,
    stream,
    strict_tools,
    structured,
    thinking,
    tools,
)
from tribody.core.errors import BadConfig

SECTIONS: tuple[Section, ...] = (
    endpoints.SECTION,
    catalogue.SECTION,
    request_fields.SECTION,
    plain.SECTION,
    stream.SECTION,
    thinking.SECTION,
    tools.SECTION,
    strict_tools.SECTION,
    structured.SECTION,
    beta.SECTION,
    completions.SECTION,
    cache.SECTION,
    anthropic.SECTION,
    responses.SECTION,
    embeddings.SECTION,
    batches.SECTION,
    errors.SECTION,
    concurrency.SECTION,
    hygiene.SECTION,
)


def chosen(names: Collection[str]) -> tuple[Section, ...]:
    """The sections of these names; all of them where none is named.

    Raises: BadConfig on an unknown name.
    """
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            raise BadConfig(f"--section {name!r} is not known; known are {', '.join(known)}")
    return tuple(section for section in SECTIONS if not names or section.name in names)
