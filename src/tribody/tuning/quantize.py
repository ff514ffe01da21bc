"""A model's formats under a budget: observe, measure, choose, fit, verify, write.

The loss is the mean KL divergence of next-token distributions to the float32 model's, in nats per
token, and `recovery` = exp(-loss): the factor, in the geometric mean, by which the probabilities of
the reference's tokens are kept.  So 99.5 % allow a loss of 0.0050 nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from tribody.core.config import EngineConfig, WeightFormat
from tribody.core.errors import BadConfig
from tribody.core.version import VERSION
from tribody.engine.machine import physical_cores
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.packed_checkpoint import write_checkpoint
from tribody.models.packed import packed_items
from tribody.ops.table import Ops
from tribody.precision.allocate import Knapsack, Point, frontier
from tribody.quality.chunks import Chunk
from tribody.quality.distribution import Distance, compare
from tribody.quality.logits import REFERENCE, LoadedModel, Precision
from tribody.quality.progress import Watcher
from tribody.tuning.balance import balance
from tribody.tuning.choice import Choice, Goal
from tribody.tuning.corpus import Corpus
from tribody.tuning.decode_speed import (
    PREFILL_ROUNDS,
    ROUNDS,
    Rates,
    compare_speed,
    measured_rates,
    median_interval,
)
from tribody.tuning.fitting import Fits
from tribody.tuning.manifest import (
    Calibration,
    FrontierPoint,
    Manifest,
    MatrixReport,
    Speed,
    Verification,
)
from tribody.tuning.sensitivity import Sensitivities, coarse_of, sensitivities
from tribody.tuning.trial import Reading, Trial

FORMATS: tuple[WeightFormat, ...] = ("w8g32", "w6g32", "w5m32", "w4m32")

READ_SHARE, READ_TOKENS = 2, 256
# Every second piece of the text that scales are fitted by is also read, READ_TOKENS of each, for
# the loss of a whole mixture.
SENSED_SHARE, LEAST_SENSED = 8, 2
# Of these, one in eight for the losses of single matrices: second moments of 1,536 inputs want
# thousands of tokens, an order among the matrices some hundreds; two pieces at least, for the two
# forms of latent attention.

TRIES = 3  # of a mixture for a speed, each written and timed


class Quantization:
    """Of one model, `config.model_path`, to as many goals as are asked for; measured once."""

    def __init__(
        self,
        config: EngineConfig,
        corpus: Corpus,
        ops: Ops,
        watcher: Watcher,
        formats: Sequence[WeightFormat] = FORMATS,
    ) -> None:
        """Loads the model and measures it.  Raises: BadModel, EngineFailed."""
        self._config, self._corpus = config, corpus
        self._ops, self._watcher, self._formats = ops, watcher, formats
        watcher.begin("float32: loading", 1)
        self.trial = Trial(Path(config.model_path), ops)
        watcher.advance(1)
        self.readings = self._read()
        self.fits = Fits(self.trial, ops, config.num_threads or physical_cores())
        watcher.begin("what each matrix loses", 2 * len(self.trial.matrices) + len(formats))
        self.losses: Sensitivities = sensitivities(
            self.trial, self.fits, formats, self.sensed, watcher.advance
        )
        self.points: list[Point[WeightFormat]] = frontier(self.losses)

    @property
    def sensed(self) -> list[Reading]:
        """The readings that single matrices are measured on."""
        return self.readings[: max(LEAST_SENSED, len(self.readings) // SENSED_SHARE)]

    def run(self, goal: Goal, out: Path) -> Manifest:
        """Write the packed model to `out`.  Raises: BadConfig, EngineFailed, OSError."""
        choice = Choice(
            self.trial, self.readings, self.points, Knapsack(self.losses), self._exchange
        )
        if goal.speed is not None:
            choice.rates = self._rates()
        try:
            point = choice.best(goal)
            self._save(out, {})
            speed = self._timed(out, goal, choice, point)
            for _ in range(TRIES - 1):
                if speed is None or speed.decode_ratio >= speed.target:
                    break
                choice.correction *= speed.decode_ratio / speed.predicted_decode_ratio
                point = choice.best(goal)
                self._save(out, {})
                speed = self._timed(out, goal, choice, point)
        except BadConfig:
            out.unlink(missing_ok=True)
            raise
        manifest = self._manifest(goal, point, speed, self._verify(out))
        self._save(out, msgspec.to_builtins(manifest))
        return manifest

    def _read(self) -> list[Reading]:
        chunks = self._corpus.calibration
        few = [_start(chunk) for chunk in chunks[: max(LEAST_SENSED, len(chunks) // READ_SHARE)]]
        self._watcher.begin("float32: reading", len(chunks) + len(few))
        for index, chunk in enumerate(chunks):
            self.trial.observe(chunk, generated=index % 2 == 1)
            self._watcher.advance(1)
        balance(self.trial, coarse_of(self._formats))
        readings = []
        for index, chunk in enumerate(few):
            readings.append(self.trial.read(chunk, generated=index % 2 == 1))
            self._watcher.advance(1)
        return readings

    def _exchange(self, point: Point[WeightFormat]) -> None:
        self._watcher.begin("fitting scales and codes", len(point.choices))
        self.fits.exchange(point.choices, self._watcher.advance)

    def _save(self, out: Path, manifest: dict[str, object]) -> None:
        with closing(open_checkpoint(Path(self._config.model_path))) as checkpoint:
            write_checkpoint(out, checkpoint, packed_items(self.trial.weights), manifest)

    def _rates(self) -> Rates:
        total = len(self._formats) * (ROUNDS + PREFILL_ROUNDS)
        self._watcher.begin("timing each format", total)
        work = {name: self.trial.work(name) for name in self.trial.matrices}
        return measured_rates(self._config, self._formats, work, self._watcher.advance)

    def _timed(
        self, out: Path, goal: Goal, choice: Choice, point: Point[WeightFormat]
    ) -> Speed | None:
        if goal.speed is None:
            return None
        self._watcher.begin("timing the mixture", ROUNDS + PREFILL_ROUNDS)
        found = compare_speed(self._config, _packed(out), self._watcher.advance)
        return Speed(
            target=goal.speed,
            predicted_decode_ratio=choice.speed(point),
            decode_ratio=float(np.median(found.decode)),
            decode_ratio_interval=median_interval(found.decode),
            prefill_ratio=float(np.median(found.prefill)),
            prefill_tokens=found.prefill_tokens,
        )

    def _verify(self, out: Path) -> Distance:
        chunks = self._corpus.verification
        total = sum(chunk.num_predicted for chunk in chunks)
        self._watcher.begin(f"verifying on {self._corpus.name}", total)
        reference = LoadedModel(self._config, REFERENCE)
        other = LoadedModel(self._config, Precision("w8g32", "float32", out))
        return compare(reference, other, self._corpus.name, chunks, self._watcher)

    def _manifest(
        self,
        goal: Goal,
        chosen: Point[WeightFormat],
        speed: Speed | None,
        distance: Distance,
    ) -> Manifest:
        corpus, trial = self._corpus, self.trial
        fixed_bytes, num_weights = trial.prescribed_bytes, trial.weights.num_weights

        def bits(num_bytes: int) -> float:
            return 8 * (num_bytes + fixed_bytes) / num_weights

        return Manifest(
            tribody_version=VERSION,
            source=trial.name,
            source_fingerprint=trial.fingerprint,
            budget=goal.recovery,
            target_bits_per_weight=goal.bits,
            bits_per_weight=bits(chosen.num_bytes),
            weight_bytes=chosen.num_bytes + fixed_bytes,
            recovery=math.exp(-distance.kl_mean_nats),
            speed=speed,
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
                correct_to_wrong=distance.correct_to_wrong,
                wrong_to_correct=distance.wrong_to_correct,
                mcnemar_p=distance.mcnemar_p,
            ),
            matrices={
                name: MatrixReport(
                    format=chosen.choices[name],
                    num_weights=math.prod(trial.matrices[name].shape),
                    num_bytes=trial.matrices[name].num_bytes,
                    losses={option.choice: option.loss for option in options},
                )
                for name, options in self.losses.items()
            },
            frontier=[
                FrontierPoint(bits_per_weight=bits(p.num_bytes), predicted_kl_nats=p.loss)
                for p in self.points
            ],
        )


def _start(chunk: Chunk) -> Chunk:
    """The first READ_TOKENS, or what comes before the predicted ones and as much again."""
    return Chunk(chunk.token_ids[: max(READ_TOKENS, 2 * chunk.first)], chunk.first)


def _packed(path: Path) -> Precision:
    return Precision("w8g32", "float16", path)
