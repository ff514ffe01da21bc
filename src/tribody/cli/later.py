"""Groups of commands that are imported when one of them is asked for, so that `--help` is quick.

typer works out every option of every command of a group that it is given; the top page needs a
group's name and its help alone.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


def later(module: str, name: str) -> typer.Typer:
    """A group that stands for the one called `name` in `module`."""

    class Later(TyperGroup):
        def _group(self) -> TyperGroup:
            return get_group(getattr(importlib.import_module(module), name))

        def list_commands(self, ctx: Any) -> list[str]:
            return self._group().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._group().get_command(ctx, cmd_name)

    return typer.Typer(cls=Later, no_args_is_help=True, rich_markup_mode=None)
