"""What each part of `tribody quantize` is worth: one part left out at a time, at equal bytes.

    .venv-bench/bin/python bench/precision_ablations.py mini-r1 --out runs/ablations
    .venv-bench/bin/python bench/precision_ablations.py OFF-GRID.gguf --out runs/ablations

For the bytes of each plain format: the mixture that takes no more of them, and

* not descended: its codes chosen once, with error feedback between columns;
* nearest codes: its scales fitted, no error feedback;
* plain: its formats, rounded plainly;
* by errors: formats chosen as if a matrix's loss were its weighted rounding error;
* without minima: formats chosen among w8g32, w6g32 and fp4g32;
* uniform: all matrices in that format, fitted as the mixture is;
* uniform, plain.

The loss is the mean KL to float32 on text that nothing was fitted to, as the model runs (8-bit
activations), with 95 % intervals that draw chunks; `ratio` is to the mixture's loss, paired.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from progress import Stages
from tribody.core.config import EngineConfig, WeightFormat
from tribody.engine.machine import physical_cores
from tribody.loading import bundled
from tribody.loading.download import default_cache_dir
from tribody.loading.hub import resolve
from tribody.ops import native
from tribody.ops.table import F32
from tribody.precision.allocate import Knapsack, Option
from tribody.precision.codes import Parts, encode
from tribody.precision.formats import matrix_bytes
from tribody.precision.search import SEARCHES
from tribody.quality.logits import REFERENCE, LoadedModel
from tribody.quality.prose import package_prose
from tribody.quality.statistics import F64, Interval, bootstrap_means, percentile_interval
from tribody.tuning.corpus import Corpus, prose_corpus, task_corpus
from tribody.tuning.fitting import Fits, compensated, importance_of
from tribody.tuning.quantize import Quantization
from tribody.tuning.sensitivity import Sensitivities, rounding_errors, sensitivities
from tribody.tuning.trial import Reading

UNIFORM: tuple[WeightFormat, ...] = ("w6g32", "w5m32", "w4m32")
SYMMETRIC: tuple[WeightFormat, ...] = ("w8g32", "w6g32", "fp4g32")
SEED = 11

Choices = Mapping[str, WeightFormat]


@dataclass(frozen=True)
class Row:
    """One variant.  `at` names the format whose bytes it may take."""

    model: str
    at: str
    variant: str
    bits: float
    kl_nats: float
    kl_interval: Interval
    ratio: float
    ratio_interval: Interval


def nearest(values: F32, weight_format: WeightFormat, importance: F32, _: F32 | None) -> Parts:
    return compensated(values, weight_format, importance, None)


def plain(values: F32, weight_format: WeightFormat, _: F32, __: F32 | None) -> Parts:
    return encode(values, weight_format)


class Ablations:
    """One model, measured once; variants are put into its trial one after another."""

    def __init__(self, model: str, config: EngineConfig, corpus: Corpus) -> None:
        self.model = model
        self.quantization = Quantization(config, corpus, native.OPS, Stages(), tuple(SEARCHES))
        self.trial = self.quantization.trial
        self.held_out: list[Reading] = [
            self.trial.read(chunk, generated=index % 2 == 1)
            for index, chunk in enumerate(corpus.verification)
        ]
        threads = physical_cores()
        self.fits = {
            "fitted": self.quantization.fits,
            "compensated": Fits(self.trial, native.OPS, threads, compensated),
            "nearest": Fits(self.trial, native.OPS, threads, nearest),
            "plain": Fits(self.trial, native.OPS, threads, plain),
        }
        self.knapsacks = {
            "measured": Knapsack(self.quantization.losses),
            "by errors": Knapsack(self._by_errors()),
            "without minima": Knapsack(self._without_minima()),
        }

    def _by_errors(self) -> Sensitivities:
        formats = list(SEARCHES)
        found: Sensitivities = {}
        for name, matrix in self.trial.matrices.items():
            errors = rounding_errors(self.trial.values(name), importance_of(matrix), formats)
            if self.trial.first_layer(name) is None:
                errors = dict.fromkeys(formats, 0.0)
            found[name] = [
                Option(each, matrix_bytes(matrix.shape, each), errors[each]) for each in formats
            ]
        return found

    def _without_minima(self) -> Sensitivities:
        run = self.quantization
        return sensitivities(self.trial, run.fits, SYMMETRIC, run.sensed, lambda _: None)

    def loss(self, choices: Choices, fit: str) -> F64:
        """(chunks, 2): sums of KL, and compared positions."""
        self.fits[fit].exchange(choices, lambda _: None)
        counts = np.array([len(reading.log_probs) for reading in self.held_out], np.float64)
        means = [self.trial.divergence([reading], -1) for reading in self.held_out]
        for matrix in self.trial.matrices.values():
            matrix.matrix = matrix.original
        return np.stack([np.array(means) * counts, counts], axis=1)

    def bits(self, choices: Choices) -> float:
        trial = self.trial
        free = sum(matrix_bytes(trial.matrices[n].shape, each) for n, each in choices.items())
        return 8 * (free + trial.prescribed_bytes) / trial.weights.num_weights

    def variants(self, at: WeightFormat) -> dict[str, tuple[Choices, str]]:
        """Choices and how they are fitted, the mixture first."""
        uniform: Choices = dict.fromkeys(self.trial.matrices, at)
        most = sum(matrix_bytes(m.shape, at) for m in self.trial.matrices.values())
        chosen = {
            name: None if point is None else point.choices
            for name, point in ((n, k.best_within(most)) for n, k in self.knapsacks.items())
        }
        mixture = chosen["measured"]
        assert mixture is not None, "the format itself takes no more bytes"
        found: dict[str, tuple[Choices, str]] = {
            "mixture": (mixture, "fitted"),
            "not descended": (mixture, "compensated"),
            "nearest codes": (mixture, "nearest"),
            "plain": (mixture, "plain"),
        }
        for name in ("by errors", "without minima"):
            other = chosen[name]
            if other is not None:
                found[name] = (other, "fitted")
        return {**found, "uniform": (uniform, "fitted"), "uniform, plain": (uniform, "plain")}

    def rows(self, at: WeightFormat) -> list[Row]:
        variants = self.variants(at)
        losses = {name: self.loss(*each) for name, each in variants.items()}
        base = losses["mixture"]
        return [
            self._row(at, name, self.bits(variants[name][0]), own, base)
            for name, own in losses.items()
        ]

    def _row(self, at: str, name: str, bits: float, own: F64, base: F64) -> Row:
        sums = np.stack([own[:, 0], base[:, 0]], axis=1)
        means = sums.sum(axis=0) / own[:, 1].sum()
        draws = bootstrap_means(sums, own[:, 1], SEED)
        assert draws is not None
        return Row(
            model=self.model,
            at=at,
            variant=name,
            bits=bits,
            kl_nats=float(means[0]),
            kl_interval=percentile_interval(draws[:, 0]),
            ratio=float(means[0] / means[1]),
            ratio_interval=percentile_interval(draws[:, 0] / draws[:, 1]),
        )


def show(row: Row) -> str:
    kl, ratio = row.kl_interval, row.ratio_interval
    return (
        f"{row.at:6} {row.variant:16} {row.bits:5.2f} bits  KL {row.kl_nats:.5f} "
        f"({kl.low:.5f} to {kl.high:.5f})  x {row.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
    )


def corpus_for(config: EngineConfig, tokens: int) -> Corpus:
    """As `tribody quantize` takes it."""
    model = LoadedModel(config, REFERENCE)
    if Path(config.model_path).parent == bundled.root():
        return task_corpus(model, bundled.root() / "held_out.jsonl.gz", tokens)
    return prose_corpus(model, package_prose(default_cache_dir(os.environ)), tokens)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--tokens", type=int, default=8192, help="to calibrate on, and to measure")
    parser.add_argument("--at", default=",".join(UNIFORM), help="formats whose bytes are taken")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = resolve(options.model, cache_dir=default_cache_dir(os.environ))
    config = EngineConfig(model_path=str(path), kv_budget_bytes=1 << 28)
    run = Ablations(path.stem, config, corpus_for(config, options.tokens))
    with (options.out / f"{path.stem}.jsonl").open("w", encoding="utf-8") as results:
        for at in options.at.split(","):
            for row in run.rows(at):
                print(show(row), flush=True)
                results.write(msgspec.json.encode(row).decode() + "\n")


if __name__ == "__main__":
    main()
