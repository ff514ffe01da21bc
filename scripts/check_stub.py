"""Compare the checked-in stub of the native module with the one that nanobind derives from it.

python scripts/check_stub.py            compare; show the difference and fail if there is one
python scripts/check_stub.py --write    replace the stub
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "tribody._native"
STUB = Path(__file__).parent.parent / "src" / "tribody" / "_native.pyi"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / STUB.name
        command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", MODULE, "-o", str(output)]
        if subprocess.run(command, check=False).returncode:
            return 1
        derived = output.read_text("utf-8")
    if "--write" in sys.argv[1:]:
        STUB.write_text(derived, "utf-8")
        return 0
    stored = STUB.read_text("utf-8") if STUB.exists() else ""
    difference = list(
        difflib.unified_diff(
            stored.splitlines(), derived.splitlines(), str(STUB), "the built module", lineterm=""
        )
    )
    if difference:
        print("\n".join(difference))
        print("The stub is out of date: .venv-check/bin/python scripts/check_stub.py --write")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
