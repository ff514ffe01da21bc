"""Hold the core environment to its promise: no torch, and under 280 MB.

Run by the core environment's own interpreter (`make check`).
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

LIMIT_MB = 280  # 10^6 bytes, of the whole folder, pip included
FORBIDDEN = frozenset({"torch", "transformers", "jax", "tensorflow", "triton", "onnxruntime"})


def folder_bytes(folder: Path) -> int:
    """What the folder takes on disk; a hard-linked file counts once, a symbolic link not at all."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("check_core_env.py must run in the core environment: .venv/bin/python")
        return 1
    installed = {
        distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()
    }
    megabytes = folder_bytes(Path(sys.prefix)) / 1e6
    print(f"core environment: {len(installed)} packages, {megabytes:.0f} MB (limit {LIMIT_MB} MB)")
    found = sorted(installed & FORBIDDEN)
    if found:
        print(f"core environment holds {', '.join(found)}: not a core dependency")
    if "tribody" not in installed:
        print("core environment does not hold tribody: make install")
    return 1 if found or megabytes >= LIMIT_MB or "tribody" not in installed else 0


if __name__ == "__main__":
    sys.exit(main())
