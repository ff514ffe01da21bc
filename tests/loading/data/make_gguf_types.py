"""Writes gguf_types.npz: packed blocks of every GGUF type and what gguf.quants decodes them to.

Run in the parity environment, from the repository root:
    .venv-parity/bin/python tests/loading/data/make_gguf_types.py
It also writes gguf_types.sha256 with the versions used.  Blocks are random bytes (seed 20261121)
whose float16 fields are replaced with finite random numbers, subnormal and negative ones included.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

SCALE_OFFSETS = {
    "F32": [], "F16": [], "BF16": [], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0],
    "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "MXFP4": [],
}  # fmt: skip


def main() -> None:
    rng = np.random.default_rng(20261121)
    arrays = {}
    for name, offsets in SCALE_OFFSETS.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = {1: 256, 32: 24, 256: 6}[elements]
        if elements == 1:
            values = (rng.standard_normal(count) * 10.0 ** rng.integers(-6, 3, count)).astype("<f4")
            raw = {"F32": values, "F16": values.astype("<f2"), "BF16": values.view("<u4") >> 16}[
                name
            ]
            raw = raw.astype("<u2") if name == "BF16" else raw
            raw = raw.view(np.uint8).reshape(1, -1)
        else:
            raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
            if name == "MXFP4":
                raw[:, 0] %= 253  # no scale that makes a value infinite
            for offset in offsets:
                scale = rng.standard_normal(count) * 10.0 ** rng.integers(-7, 2, count)
                raw[:, offset : offset + 2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
        expected = raw.view("<f4") if name == "F32" else quants.dequantize(raw, kind)
        arrays[f"{name}_packed"] = raw.reshape(-1)
        arrays[f"{name}_values"] = np.ascontiguousarray(expected, dtype=np.float32).reshape(-1)
    path = Path(__file__).with_name("gguf_types.npz")
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy takes ** for its flag
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    versions = f"gguf {version('gguf')}, numpy {np.__version__}"
    path.with_suffix(".sha256").write_text(f"{digest}  {path.name}  ({versions})\n")


main()
