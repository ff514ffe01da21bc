"""How the API speaks to one caller: the server's choices, which a key may override.

Everything here changes the shape of answers or what is accepted, never a token.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ProfileName = Literal["2025", "2026"]
Style = Literal["deepseek", "openai"]


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`profile`: which of DeepSeek's contracts holds (docs/api.md tells them apart).

    `errors`: "deepseek" answers 422 where a value is wrong and 402 where money is; "openai" 400 and
    429.  `usage`: "deepseek" puts it on the last chunk of every stream; "openai" in a chunk of its
    own, where it was asked for.
    """

    profile: ProfileName = "2026"
    errors: Style = "deepseek"
    usage: Style = "deepseek"
    stream_keep_alive: bool = True  # comments while a stream waits
    plain_keep_alive: bool = False  # blank lines before a plain body: naive clients break on them
    max_concurrency: int = 0  # requests at once; 0 = no limit of its own
