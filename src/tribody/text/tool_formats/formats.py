"""The tool-call formats: their names, their parsers, their markup."""

from __future__ import annotations

from typing import Literal

from tribody.text.tool_calls import ToolCallParser
from tribody.text.tool_formats import dsml_calls, hermes_calls, special_token_calls

ToolFormat = Literal["deepseek_v3", "deepseek_v3_1", "deepseek_v3_2", "deepseek_v4", "hermes"]
"""deepseek_v3 is R1's too."""

MARKERS: dict[ToolFormat, tuple[str, ...]] = {
    "deepseek_v3": special_token_calls.MARKERS,
    "deepseek_v3_1": special_token_calls.MARKERS,
    "deepseek_v3_2": dsml_calls.MARKERS,
    "deepseek_v4": dsml_calls.MARKERS,
    "hermes": hermes_calls.MARKERS,
}
"""Texts that may be special tokens of the vocabulary: the parser has to see them."""


def tool_parser(tool_format: ToolFormat, *, live: bool = False) -> ToolCallParser:
    """A new parser for the content of one answer.

    `live`: calls are told as they come, which suits answers that a grammar holds to their format;
    else each when it is whole, and what breaks in the middle comes back as text.
    """
    match tool_format:
        case "deepseek_v3" | "deepseek_v3_1":
            return special_token_calls.SpecialTokenParser(live=live)
        case "deepseek_v3_2" | "deepseek_v4":
            return dsml_calls.DsmlParser(dsml_calls.BLOCKS[tool_format], live=live)
        case "hermes":
            return hermes_calls.HermesParser(live=live)
