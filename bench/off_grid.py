"""SmolLM2 moved off the 4-bit grid that its public weights lie on.

    .venv-bench/bin/python bench/off_grid.py SOURCE.gguf TARGET.gguf

The public GGUF holds Q4_1 blocks, so a 4-bit format that finds the same blocks loses nothing: its
figures would flatter every 4-bit format.  This writes a model that computes the same function with
weights that lie on no grid, in float32:

* the norms before attention and before the MLP are folded into the matrices that read them;
* row i of up_proj is multiplied by a random s_i, column i of down_proj divided by it;
* values are rotated by a random orthogonal matrix per key-value head, o_proj's columns likewise;
* every pair of rows of q and k that rope rotates together is turned by a random angle and scaled
  by s (q) and 1 / s (k): both commute with the rotation by position.

In real arithmetic nothing changes; in float32 logits differ by rounding (the largest
difference on a sentence was 1e-4).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
SEED = 20261122
SPREAD = 0.35  # scales are e^u, u uniform in +-SPREAD: 0.70 to 1.42


def read(reader: gguf.GGUFReader) -> dict[str, F64]:
    """Every tensor, decoded, rows first."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in reader.tensors
    }


def move_layer(
    weights: dict[str, F64], prefix: str, head_dim: int, rng: np.random.Generator
) -> None:
    """Changes the layer's matrices in place."""

    def scales(count: int) -> F64:
        return np.exp(rng.uniform(-SPREAD, SPREAD, count))

    def named(name: str) -> str:
        return f"{prefix}.{name}.weight"

    for norm, readers in (
        ("attn_norm", ("attn_q", "attn_k", "attn_v")),
        ("ffn_norm", ("ffn_gate", "ffn_up")),
    ):
        for reader in readers:
            weights[named(reader)] *= weights[named(norm)]
        weights[named(norm)] = np.ones_like(weights[named(norm)])

    factors = scales(len(weights[named("ffn_up")]))
    weights[named("ffn_up")] *= factors[:, None]
    weights[named("ffn_down")] /= factors

    q, k, v, o = (weights[named(name)] for name in ("attn_q", "attn_k", "attn_v", "attn_output"))
    num_heads, num_kv = len(q) // head_dim, len(k) // head_dim
    for kv in range(num_kv):
        rows = slice(kv * head_dim, (kv + 1) * head_dim)
        heads = range(kv * num_heads // num_kv, (kv + 1) * num_heads // num_kv)
        rotation, _ = np.linalg.qr(rng.normal(size=(head_dim, head_dim)))
        v[rows] = rotation @ v[rows]
        angles = rng.uniform(0, 2 * np.pi, head_dim // 2)
        factors = scales(head_dim // 2)
        k[rows] = turned(k[rows], angles, 1 / factors)
        for head in heads:
            own = slice(head * head_dim, (head + 1) * head_dim)
            o[:, own] = o[:, own] @ rotation.T
            q[own] = turned(q[own], angles, factors)


def turned(rows: F64, angles: F64, factors: F64) -> F64:
    """Neighbouring rows (GGUF keeps the two that rope rotates together side by side), turned."""
    even, odd = rows[0::2], rows[1::2]
    cos, sin = (np.cos(angles) * factors)[:, None], (np.sin(angles) * factors)[:, None]
    out = np.empty_like(rows)
    out[0::2], out[1::2] = cos * even - sin * odd, sin * even + cos * odd
    return out


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def move(source: Path, target: Path, say: Callable[[str], None] = print) -> None:
    """Raises: SystemExit when the source is not of llama.cpp's architecture `llama`."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise SystemExit(f"{source}: architecture {architecture}; only llama is known here")
    weights = read(reader)
    width = reader.fields["llama.embedding_length"].contents()
    head_dim = width // reader.fields["llama.attention.head_count"].contents()
    rng = np.random.default_rng(SEED)
    for layer in range(reader.fields["llama.block_count"].contents()):
        move_layer(weights, f"blk.{layer}", head_dim, rng)
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    copy_metadata(reader, writer)
    for name, values in weights.items():
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    partial.rename(target)
    say(f"{target}: {len(weights)} tensors, {target.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    move(arguments.source, arguments.target)
