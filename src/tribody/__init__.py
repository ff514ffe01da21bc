"""Tribody serves DeepSeek-class models on the hardware its user already owns.

`from tribody import LLM` is the library's face; it is imported when first asked for, so that
`import tribody` and `tribody --help` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tribody.core.version import VERSION as __version__

if TYPE_CHECKING:
    from tribody.engine.llm import LLM as LLM

__all__ = ["LLM", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from tribody.engine.llm import LLM

        return LLM
    raise AttributeError(f"module 'tribody' has no attribute {name!r}")
