"""Refuse the calls and imports that can run code found in data, anywhere in src/tribody.

A checkpoint, a template and a request are other people's input.  This reads the syntax trees of
the package; it is not a sandbox and not a proof, it keeps the easy mistakes out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src" / "tribody"

FORBIDDEN_IMPORTS = frozenset(
    {"cloudpickle", "dill", "jinja2", "joblib", "marshal", "pickle", "shelve", "torch", "yaml"}
)
FORBIDDEN_NAMES = frozenset({"__import__", "compile", "eval", "exec"})
FORBIDDEN_ATTRIBUTES = frozenset({"builtins.eval", "builtins.exec", "os.popen", "os.system"})
FORBIDDEN_KEYWORDS = frozenset({"allow_pickle", "shell", "trust_remote_code"})


def complaints(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of each forbidden thing in one module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FORBIDDEN_IMPORTS:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in FORBIDDEN_IMPORTS:
                yield node.lineno, f"from {node.module} import …"
        elif isinstance(node, ast.Call):
            yield from _call_complaints(node)


def _call_complaints(node: ast.Call) -> Iterator[tuple[int, str]]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in FORBIDDEN_NAMES:
        yield node.lineno, f"{function.id}()"
    dotted = ast.unparse(function)
    if dotted in FORBIDDEN_ATTRIBUTES:
        yield node.lineno, f"{dotted}()"
    for keyword in node.keywords:
        is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in FORBIDDEN_KEYWORDS and not is_false:
            yield node.lineno, f"{keyword.arg}="


def main() -> int:
    found = 0
    for path in sorted(SOURCES.rglob("*.py")):
        for line, what in complaints(ast.parse(path.read_text("utf-8"), str(path))):
            print(f"{path}:{line}: {what} is forbidden in src (scripts/check_calls.py)")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
