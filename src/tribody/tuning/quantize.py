"""A model's formats under a budget: observe, measure, choose, fit, verify, write.

The loss is the mean KL divergence of next-token distributions to the float32 model's, in nats per
token, and `recovery` = exp(-loss): the factor, in the geometric mean, by which the probabilities of
the reference's tokens are kept.  So 99.5 % allow a loss of 0.0050 nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tribody.core.config import EngineConfig, WeightFormat
from tribody.core.errors import BadConfig
from tribody.core.version import VERSION
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.packed_checkpoint import write_checkpoint
from tribody.models.packed import packed_items
from tribody.ops.table import Ops
from tribody.precision.allocate import Point, best_within, frontier, smallest_within
from tribody.quality.chunks import Chunk
from tribody.quality.distribution import Distance, compare
from tribody.quality.logits import REFERENCE, LoadedModel, Precision
from tribody.quality.progress import Watcher
from tribody.tuning.manifest import (
    Calibration,
    FrontierPoint,
    Manifest,
    MatrixReport,
    Verification,
)
from tribody.tuning.sensitivity import Sensitivities, exchange, sensitivities
from tribody.tuning.trial import Reading, Trial

FORMATS: tuple[WeightFormat, ...] = ("w8g32", "w6g32", "w5m32", "w4m32")

ROUNDS = 3
# Of choosing.  Losses of single matrices, rounded plainly, predict the whole's only roughly; the
# whole is measured, the prediction scaled by what was found, and the choice made again.

CLOSE = 0.97  # of the budget used: another round is not worth its minutes


@dataclass(frozen=True)
class Goal:
    """One of the two: the least recovery, or the most bits per weight."""

    recovery: float | None = None
    bits: float | None = None


@dataclass(frozen=True)
class Corpus:
    """Text cut into chunks: formats are chosen by some, the result is verified on the others."""

    name: str
    source: str
    sha256: str
    calibration: Sequence[Chunk]
    verification: Sequence[Chunk]


class Quantization:
    """One run.  `config.model_path` names the source."""

    def __init__(
        self,
        config: EngineConfig,
        goal: Goal,
        corpus: Corpus,
        ops: Ops,
        watcher: Watcher,
        formats: Sequence[WeightFormat] = FORMATS,
    ) -> None:
        self._config, self._goal, self._corpus = config, goal, corpus
        self._ops, self._watcher, self._formats = ops, watcher, formats
        self._path = Path(config.model_path)

    def run(self, out: Path) -> Manifest:
        """Write the packed model to `out`.  Raises: BadConfig, BadModel, EngineFailed, OSError."""
        self._watcher.begin("float32: loading", 1)
        trial = Trial(self._path, self._ops)
        self._watcher.advance(1)
        readings = self._read(trial)
        measured = self._measure(trial, readings)
        points = frontier(measured)
        chosen = self._choose(trial, readings, points)
        return self._write(out, trial, measured, points, chosen)

    def _read(self, trial: Trial) -> list[Reading]:
        chunks = self._corpus.calibration
        self._watcher.begin("float32: reading", len(chunks))
        readings = []
        for index, chunk in enumerate(chunks):
            readings.append(trial.read(chunk, generated=index % 2 == 1, observe=True))
            self._watcher.advance(1)
        return readings

    def _measure(self, trial: Trial, readings: Sequence[Reading]) -> Sensitivities:
        total = len(trial.matrices) * len(self._formats)
        self._watcher.begin("each matrix in each format", total)
        return sensitivities(trial, self._ops, self._formats, readings, self._watcher.advance)

    def _choose(
        self, trial: Trial, readings: Sequence[Reading], points: Sequence[Point[WeightFormat]]
    ) -> Point[WeightFormat]:
        """The allocation for the goal; the trial then holds its matrices."""
        if self._goal.bits is not None:
            wanted = int(self._goal.bits * trial.weights.num_weights / 8) - trial.prescribed_bytes
            chosen = best_within(points, wanted)
            if chosen is None:
                least = (
                    8 * (points[-1].num_bytes + trial.prescribed_bytes) / trial.weights.num_weights
                )
                raise BadConfig(f"--bits {self._goal.bits}: this model takes {least:.2f} or more")
            self._exchange(trial, chosen)
            return chosen
        assert self._goal.recovery is not None
        budget, scale = -math.log(self._goal.recovery), 1.0
        best: Point[WeightFormat] | None = None
        for _ in range(ROUNDS):
            chosen = smallest_within(points, budget / scale)
            if chosen is None:
                break
            self._exchange(trial, chosen)
            loss = trial.divergence(readings, -1)
            if loss <= budget and (best is None or chosen.num_bytes < best.num_bytes):
                best = chosen
            if CLOSE * budget <= loss <= budget:
                break
            scale = loss / chosen.loss if chosen.loss > 0 else 1.0
        if best is None:
            raise BadConfig(
                f"--budget {self._goal.recovery:.2%}: the best formats do not keep so much; ask "
                "for less, or serve --dtype bfloat16"
            )
        self._exchange(trial, best)
        return best

    def _exchange(self, trial: Trial, point: Point[WeightFormat]) -> None:
        self._watcher.begin("fitting scales", len(point.choices))
        exchange(trial, point.choices, self._ops, self._watcher.advance)

    def _write(
        self,
        out: Path,
        trial: Trial,
        measured: Sensitivities,
        points: Sequence[Point[WeightFormat]],
        chosen: Point[WeightFormat],
    ) -> Manifest:
        """Write, load what was written, verify it, and write again with the manifest."""
        items = packed_items(trial.weights)
        checkpoint = open_checkpoint(self._path)
        try:
            write_checkpoint(out, checkpoint, items, {})
            distance = self._verify(out)
            manifest = self._manifest(trial, measured, points, chosen, distance)
            write_checkpoint(out, checkpoint, items, msgspec.to_builtins(manifest))
        finally:
            checkpoint.close()
        return manifest

    def _verify(self, out: Path) -> Distance:
        chunks = self._corpus.verification
        total = sum(chunk.num_predicted for chunk in chunks)
        self._watcher.begin(f"verifying on {self._corpus.name}", total)
        reference = LoadedModel(self._config, REFERENCE)
        other = LoadedModel(self._config, Precision("w8g32", "float32", out))
        return compare(reference, other, self._corpus.name, chunks, self._watcher)

    def _manifest(
        self,
        trial: Trial,
        measured: Sensitivities,
        points: Sequence[Point[WeightFormat]],
        chosen: Point[WeightFormat],
        distance: Distance,
    ) -> Manifest:
        corpus = self._corpus

        def bits(num_bytes: int) -> float:
            return 8 * (num_bytes + trial.prescribed_bytes) / trial.weights.num_weights

        return Manifest(
            tribody_version=VERSION,
            source=trial.name,
            source_fingerprint=trial.fingerprint,
            budget=self._goal.recovery,
            target_bits_per_weight=self._goal.bits,
            bits_per_weight=bits(chosen.num_bytes),
            weight_bytes=chosen.num_bytes + trial.prescribed_bytes,
            recovery=math.exp(-distance.kl_mean_nats),
            calibration=Calibration(
                source=corpus.source,
                sha256=corpus.sha256,
                num_tokens=sum(chunk.num_predicted for chunk in corpus.calibration),
            ),
            verification=Verification(
                corpus=corpus.name,
                sha256=corpus.sha256,
                num_tokens=distance.num_predicted_tokens,
                kl_mean_nats=distance.kl_mean_nats,
                kl_mean_interval_nats=distance.kl_mean_interval_nats,
                perplexity_ratio=distance.perplexity_ratio,
                perplexity_ratio_interval=distance.perplexity_ratio_interval,
                top1_agreement=distance.top1_agreement,
            ),
            matrices={
                name: MatrixReport(
                    format=chosen.choices[name],
                    num_weights=trial.matrices[name].values.size,
                    num_bytes=trial.matrices[name].num_bytes,
                    losses={option.choice: option.loss for option in options},
                )
                for name, options in measured.items()
            },
            frontier=[
                FrontierPoint(bits_per_weight=bits(p.num_bytes), predicted_kl_nats=p.loss)
                for p in points
            ],
        )
