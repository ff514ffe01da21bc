"""openai-python's own tests of the routes that are served, but for a written list."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import TESTS_OF_OPENAI, said_by

DESELECTED = Path(__file__).parent / "openai_deselected.txt"
CREATE = ("-k", "create")
FILLED_IN = ("-p", "with_model_and_input", "-k", "create")


def deselected() -> list[str]:
    lines = DESELECTED.read_text("utf-8").splitlines()
    return [f"--deselect={line}" for line in lines if line.startswith("tests/")]


@pytest.mark.parametrize(
    ("module", "selected", "passes"),
    [
        ("chat/test_completions.py", CREATE, 30),
        ("test_completions.py", CREATE, 30),
        ("test_models.py", ("-k", "list or retrieve"), 35),
        ("test_embeddings.py", CREATE, 6),
        ("test_responses.py", FILLED_IN, 40),
    ],
)
def test_module(url: str, module: str, selected: tuple[str, ...], passes: int) -> None:
    """`passes`: so many are left, so that nothing is left out unseen."""
    command: list[str | Path] = [
        sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--tb=short", "--show-capture=no",
        "-p", "no:codspeed", "-p", "no:benchmark", "-p", "no:recording",
        *selected, *deselected(), f"tests/api_resources/{module}",
    ]  # fmt: skip
    said = said_by(
        command,
        url,
        TESTS_OF_OPENAI,
        TEST_API_BASE_URL=f"{url}/v1",
        PYTHONPATH=str(Path(__file__).parent),
    )
    found = re.search(r"(\d+) passed(.*) in ", said)
    assert found, said
    print(f"openai-python {module}: {found[0]}")
    assert (int(found[1]), "failed" in found[2], "skipped" in found[2]) == (passes, False, False)
