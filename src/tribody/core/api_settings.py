"""How the API speaks to one caller: the server's choices, which a key may override."""

from __future__ import annotations

from typing import Literal

import msgspec

ProfileName = Literal["2025", "2026"]
Style = Literal["deepseek", "openai"]


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`profile`: which of DeepSeek's contracts holds (docs/api.md tells them apart).

    `errors`: "deepseek" answers 422 where a value is wrong and 402 where money is; "openai" 400 and
    429.  `usage`: "deepseek" puts it on the last chunk of every stream; "openai" in a chunk of its
    own, where it was asked for.  `sampling`: "deepseek" lets temperature, top_p and penalties have
    no effect on a model that thinks; with "openai" they have.
    """

    profile: ProfileName = "2026"
    errors: Style = "deepseek"
    usage: Style = "deepseek"
    sampling: Style = "deepseek"
    stream_keep_alive: bool = True  # comments while a stream waits
    plain_keep_alive: bool = False  # blank lines before a plain body: naive clients break on them
    max_concurrency: int = 0  # requests at once; 0 = no limit of its own


DEFAULT_API = ApiSettings()


def with_options(settings: ApiSettings, text: str) -> ApiSettings:
    """`settings` with those of a text like "profile=2025 errors=openai max_concurrency=4".

    Raises: ValueError that names the option and what is allowed.
    """
    given: dict[str, object] = {}
    for item in text.replace(",", " ").split():
        name, equals, value = item.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in ApiSettings.__struct_fields__:
            known = ", ".join(ApiSettings.__struct_fields__)
            raise ValueError(f"{item!r} is not OPTION=VALUE with an option of {known}")
        given[name] = value
    values = msgspec.structs.asdict(settings) | given
    try:
        made = msgspec.convert(values, ApiSettings, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if made.max_concurrency < 0:
        raise ValueError("max_concurrency must be 0 (no limit) or more")
    return made
