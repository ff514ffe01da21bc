"""Mutation score of the code that must not be wrong by one: ledger, tariffs, tenancy.

mutmut changes one thing at a time (a comparison, a number, an argument, a text) in the files that
pyproject.toml names, and runs the fast tests that reach it; a change that no test notices has
survived.  Printed are the survivors, each of which `.venv-mutation/bin/mutmut show NAME` shows,
and the score of every module and area.  Results are kept in mutants/, and what has not changed
since is not run again.  The exit status is 1 where an area is below the goal.

Mutants are made of what is in functions and methods: mutmut leaves alone what is decorated or
outside of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTMUT = str(Path(sys.executable).parent / "mutmut")
GOAL = 0.85
TARIFFS = ("calendar", "money", "pricing", "tariffs", "toml_text")
NOTICED = {"killed": True, "timeout": True, "survived": False, "no tests": False}


def area_of(module: str) -> str:
    """Of a dotted name."""
    _, package, name = module.split(".")
    if package == "tenancy":
        return "tenancy"
    return "tariffs" if name.startswith(TARIFFS) else "ledger"


def results() -> Iterator[tuple[str, bool]]:
    """Every mutant, and whether a test noticed it."""
    command = [MUTMUT, "results", "--all", "true"]
    text = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in text.splitlines():
        name, _, status = line.strip().rpartition(": ")
        if status not in NOTICED:
            raise SystemExit(f"{name}: {status}; run it again")
        yield name, NOTICED[status]


def main() -> int:
    run = subprocess.run([MUTMUT, "run"], cwd=ROOT)
    if run.returncode:
        return run.returncode
    made: Counter[str] = Counter()
    noticed: Counter[str] = Counter()
    for name, is_noticed in results():
        module = name.rpartition(".")[0]
        for key in (module, area_of(module)):
            made[key] += 1
            noticed[key] += is_noticed
        if not is_noticed:
            print(f"survived: {name}")
    areas = [key for key in made if "." not in key]
    for key in sorted(made.keys() - areas) + sorted(areas):
        score = 100 * noticed[key] / made[key]
        print(f"{key:40} {noticed[key]:5} of {made[key]:5} noticed: {score:5.1f} %")
    return int(any(noticed[area] < GOAL * made[area] for area in areas))


if __name__ == "__main__":
    sys.exit(main())
