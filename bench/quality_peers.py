"""What rounding loses at equal bytes: tribody's mixtures beside llama.cpp's, weights only.

    .venv-bench/bin/python bench/quality_peers.py OFF-GRID.gguf --out runs/quality

Both start from one float32 GGUF, which bench/off_grid.py made: the public SmolLM2 lies on a 4-bit
grid and would flatter 4-bit formats.  llama.cpp's files come from its own quantizer, plain and with
the importance matrix that tribody's observation of the same calibration text gives; tribody's from
`tribody quantize`, at no more bytes than each file of llama.cpp's, and at --bits.

Weights only: every file's weights are decoded to float32 and run by tribody's float32 engine, so
that neither activations nor kernels differ.  Losses are on prose that nothing was fitted to, paired
with the float32 model's on the same chunks of 512 tokens; intervals (95 %) draw chunks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from peer_process import PeerProcess
from progress import Stages
from tribody.core.config import EngineConfig
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.download import default_cache_dir
from tribody.loading.gguf_file import GgufFile
from tribody.loading.packed_checkpoint import PackedCheckpoint, write_checkpoint
from tribody.models.packed import packed_items
from tribody.ops import native
from tribody.quality.chunks import Chunk, text_chunks
from tribody.quality.distribution import compare_rows
from tribody.quality.logits import REFERENCE, LoadedModel, Precision
from tribody.quality.prose import package_prose
from tribody.quality.statistics import F64, Interval, bootstrap_means, percentile_interval
from tribody.tuning.choice import Goal
from tribody.tuning.corpus import Corpus
from tribody.tuning.fitting import importance_of
from tribody.tuning.manifest import Manifest
from tribody.tuning.quantize import Quantization
from tribody.tuning.trial import Trial

CONTEXT = 512
SEED = 5
BASE = "Q4_K_M"  # whose loss the others' are shares of
SLACK_BYTES = 1 << 16  # a manifest's numbers and paddings: files differ by less

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Row:
    """One file.  `share`: its loss of perplexity over BASE's."""

    name: str
    file_bytes: int
    weight_bits: float
    perplexity: float
    loss: float  # perplexity over the float32 model's, less 1
    loss_interval: Interval
    share: float
    share_interval: Interval
    kl_nats: float
    kl_interval: Interval


def tensors_of(name: str) -> Iterator[str]:
    """llama.cpp's names of the tensors that are one matrix here."""
    stem, _, leaves = name.rpartition(".")
    *_, layer, part = stem.removeprefix("model.").split(".")
    for leaf in leaves.split("+"):
        yield f"blk.{layer}.{GGUF_NAMES[f'{part}.{leaf}']}.weight"


def write_importance(trial: Trial, target: Path) -> None:
    """Of the matrices that llama-imatrix counts: layers', neither the embedding nor the head.

    The inputs' mean squares as tribody weighs them, so that both quantizers are told the same.
    """
    arrays = {}
    for name, matrix in trial.matrices.items():
        if name.startswith("model.layers."):
            given = importance_of(matrix) * np.square(matrix.factors)  # as in the file
            arrays.update(dict.fromkeys(tensors_of(name), given))
    np.savez(target, **arrays)  # type: ignore[arg-type]


def widen(path: Path, target: Path) -> None:
    """The same weights with every matrix in float32."""
    trial = Trial(path, native.OPS)
    for name, matrix in trial.matrices.items():
        matrix.matrix = native.OPS.pack(trial.values(name), "float32")
    with closing(open_checkpoint(path)) as checkpoint:
        write_checkpoint(target, checkpoint, packed_items(trial.weights), {})


def losses(
    reference: LoadedModel, others: Mapping[str, LoadedModel], chunks: Sequence[Chunk]
) -> dict[str, F64]:
    """(chunks, 3) for each: sums of the reference's and its own losses, and of KL."""
    sums = {name: np.zeros((len(chunks), 3)) for name in others}
    for index, chunk in enumerate(chunks):
        read, targets = chunk.token_ids[:-1], np.array(chunk.token_ids)
        first = chunk.first - 1
        expected = [(at, rows.copy()) for at, rows in reference.logits(read, first)]
        for name, other in others.items():
            pairs = zip(expected, other.logits(read, first), strict=True)
            for (position, theirs), (_, own) in pairs:
                for start in range(0, len(theirs), 32):
                    rows = slice(start, start + 32)
                    at = position + start + 1
                    wanted = targets[at : at + len(theirs[rows])]
                    part = compare_rows(theirs[rows], own[rows], wanted)
                    found = part.reference_nll.sum(), part.nll.sum(), part.kl.sum()
                    sums[name][index] += found
    return sums


def row_of(name: str, size: int, bits: float, own: F64, base: F64, counts: F64) -> Row:
    """From the sums of a file and of BASE."""
    joined = np.concatenate([own, base[:, 1:2]], axis=1)
    means = joined.sum(axis=0) / counts.sum()
    draws = bootstrap_means(joined, counts, SEED)
    assert draws is not None

    def loss(values: F64, column: int) -> F64:
        return np.asarray(np.expm1(values[..., column] - values[..., 0]))

    return Row(
        name=name,
        file_bytes=size,
        weight_bits=bits,
        perplexity=float(np.exp(means[1])),
        loss=float(loss(means, 1)),
        loss_interval=percentile_interval(loss(draws, 1)),
        share=float(loss(means, 1) / loss(means, 3)),
        share_interval=percentile_interval(loss(draws, 1) / loss(draws, 3)),
        kl_nats=float(means[2]),
        kl_interval=percentile_interval(draws[:, 2]),
    )


class Comparison:
    """One run; files that are there already are used again."""

    def __init__(self, source: Path, out: Path, tokens: int, held_out: int, threads: int) -> None:
        self.source, self.out = source, out
        self.config = EngineConfig(
            model_path=str(source),
            kv_budget_bytes=1 << 26,
            max_context_tokens=CONTEXT,
            num_threads=threads,
        )
        self.reference = LoadedModel(self.config, REFERENCE)
        text = package_prose(default_cache_dir(os.environ))
        chunks = text_chunks(self.reference, text.text, CONTEXT, 10**9)
        fitted = 2 * (tokens // CONTEXT)
        self.held_out = [c for i, c in enumerate(chunks) if i % 2 or i >= fitted]
        self.held_out = self.held_out[: max(2, held_out // CONTEXT)]
        self.counts = np.array([chunk.num_predicted for chunk in self.held_out], np.float64)
        corpus = Corpus("text", text.source, text.sha256, chunks[:fitted:2], self.held_out[:2])
        self.quantization = Quantization(self.config, corpus, native.OPS, Stages())
        self.num_weights = self.quantization.trial.weights.num_weights

    def theirs(self, types: Sequence[str], python: Path | None) -> dict[str, Path]:
        importance = self.out / "importance.npz"
        write_importance(self.quantization.trial, importance)
        files = {}
        with PeerProcess("llama.cpp", python) as peer:
            for name in types:
                for label, given in ((name, ""), (f"{name} imatrix", str(importance))):
                    files[label] = target = self.out / f"{label.replace(' ', '-')}.gguf"
                    if not target.exists():
                        asked = {"source": str(self.source), "target": str(target)}
                        peer.ask("quantize", **asked, weights=name, imatrix=given)
        return files

    def ours(self, name: str, bits: float) -> tuple[Path, int]:
        """The file, and its bytes beside the weights."""
        out = self.out / f"{name.replace(' ', '-')}.tribody"
        manifest = self.quantization.run(Goal(bits=bits), out)
        return out, out.stat().st_size - manifest.weight_bytes

    def losses(self, files: Mapping[str, Path]) -> dict[str, F64]:
        """Of all files, which are in memory together."""
        loaded = {}
        for name, path in files.items():
            config, precision = self.config, REFERENCE
            wide = path.with_suffix(".float32.tribody")
            if path.suffix == ".gguf":
                config = msgspec.structs.replace(config, model_path=str(path))
            else:
                widen(path, wide)
                precision = Precision("w8g32", "float32", wide)
            loaded[name] = LoadedModel(config, precision)
        found = losses(self.reference, loaded, self.held_out)
        for path in files.values():
            path.with_suffix(".float32.tribody").unlink(missing_ok=True)
        return found


def files_of(
    run: Comparison, types: Sequence[str], bits: Sequence[float], python: Path | None
) -> dict[str, Path]:
    """Everything that is compared, llama.cpp's files first."""
    files = run.theirs(types, python)
    sizes = {name: files[name].stat().st_size for name in types}
    beside = 0
    for wanted in bits:
        files[f"tribody {wanted:g}"], beside = run.ours(f"tribody {wanted:g}", wanted)
    for name, size in sizes.items():
        label = f"tribody as {name}"
        wanted = 8 * (size - beside - SLACK_BYTES) / run.num_weights
        files[label], beside = run.ours(label, wanted)
        assert files[label].stat().st_size <= size
    return files


def show(row: Row) -> str:
    loss, share, kl = row.loss_interval, row.share_interval, row.kl_interval
    return (
        f"{row.name:24} {row.file_bytes / 1e6:7.2f} MB {row.weight_bits:5.2f} bits  "
        f"perplexity {row.perplexity:.3f} {row.loss:+.2%} ({loss.low:+.2%} to {loss.high:+.2%})  "
        f"of {BASE}'s {row.share:.2f} ({share.low:.2f} to {share.high:.2f})  "
        f"KL {row.kl_nats:.5f} ({kl.low:.5f} to {kl.high:.5f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="a float32 GGUF, from bench/off_grid.py")
    parser.add_argument("--out", type=Path, required=True, help="a folder for files and results")
    parser.add_argument("--types", default=f"{BASE},Q4_0,Q5_K_M")
    parser.add_argument("--bits", default="4.9", help="of mixtures beside those of equal bytes")
    parser.add_argument("--tokens", type=int, default=8192, help="to calibrate on")
    parser.add_argument("--held-out", type=int, default=12288, help="tokens to measure on")
    parser.add_argument("--threads", type=int, default=0, help="default: physical cores")
    parser.add_argument("--llama-python", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = Comparison(options.source, options.out, options.tokens, options.held_out, options.threads)
    bits = [float(text) for text in options.bits.split(",") if text]
    files = files_of(run, options.types.split(","), bits, options.llama_python)
    sums = run.losses(files)
    with (options.out / "quality.jsonl").open("w", encoding="utf-8") as results:
        for name, path in files.items():
            size, stored = path.stat().st_size, weight_bits(path, run.num_weights)
            row = row_of(name, size, stored, sums[name], sums[BASE], run.counts)
            print(show(row), flush=True)
            results.write(msgspec.json.encode(row).decode() + "\n")


def weight_bits(path: Path, num_weights: int) -> float:
    """Of what is stored for weights, without descriptions and tokenizer."""
    if path.suffix == ".gguf":
        with closing(GgufFile(path)) as file:
            return 8 * sum(tensor.num_bytes for tensor in file.tensors.values()) / num_weights
    manifest = msgspec.convert(PackedCheckpoint(path).manifest, Manifest)
    return manifest.bits_per_weight


if __name__ == "__main__":
    main()
