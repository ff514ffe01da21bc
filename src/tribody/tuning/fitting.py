"""Matrices in their chosen formats, with the scales and codes that suit the inputs they meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tribody.core.config import WeightFormat
from tribody.ops.table import F32, Matrix, Ops
from tribody.precision.codes import Parts, encode
from tribody.precision.compensate import compensate, damped
from tribody.precision.descend import descend
from tribody.precision.grid import GRIDS
from tribody.precision.search import SEARCHES
from tribody.tuning.trial import Trial
from tribody.tuning.trial_ops import TrialMatrix

Fit = Callable[[F32, WeightFormat, F32, F32 | None], Parts]
# Of values (N, K) in a format, given the importance of columns and, if known, their moments (K, K),
# damped.


def fitted(values: F32, weight_format: WeightFormat, importance: F32, moments: F32 | None) -> Parts:
    """Scales by weighted least squares; codes that make up for each other's rounding; then both,
    one after another, as long as products change less."""
    parts = compensated(values, weight_format, importance, moments)
    if moments is None or weight_format not in GRIDS:
        return parts
    return descend(values, weight_format, parts, moments)


def compensated(
    values: F32, weight_format: WeightFormat, importance: F32, moments: F32 | None
) -> Parts:
    """As `fitted`, without the last."""
    search = SEARCHES.get(weight_format)
    parts = encode(values, weight_format) if search is None else search(values, importance)
    if moments is None or weight_format not in GRIDS:
        return parts
    return compensate(values, weight_format, parts, moments)


def importance_of(matrix: TrialMatrix) -> F32:
    """Mean square of each input column, (K,) or (E, K); ones where nothing was observed."""
    moments = matrix.mean_moments()
    if moments is None:
        return np.ones((*matrix.counts.shape, matrix.shape[-1]), np.float32)
    if moments.ndim - matrix.counts.ndim == 2:
        moments = np.diagonal(moments, axis1=-2, axis2=-1)
    return np.ascontiguousarray(moments)


class Fits:
    """Fitted matrices of one trial, each made once.  The trial's observations must be complete."""

    def __init__(self, trial: Trial, ops: Ops, num_threads: int, fit: Fit = fitted) -> None:
        self._trial, self._ops, self._num_threads, self._fit = trial, ops, num_threads, fit
        self._made: dict[tuple[str, WeightFormat], Matrix] = {}

    def make(self, choices: Mapping[str, WeightFormat], advance: Callable[[int], None]) -> None:
        """What `exchange` will need; the largest first.  Advances by the number of choices."""
        matrices = self._trial.matrices
        missing = [key for key in choices.items() if key not in self._made]
        missing.sort(key=lambda key: -int(np.prod(matrices[key[0]].shape)))
        advance(len(choices) - len(missing))
        with ThreadPoolExecutor(self._num_threads) as pool:  # NumPy lets other threads run
            made = pool.map(lambda key: self._made_of(*key), missing)
            for key, matrix in zip(missing, made, strict=True):
                self._made[key] = matrix
                advance(1)

    def exchange(self, choices: Mapping[str, WeightFormat], advance: Callable[[int], None]) -> None:
        """Put these matrices of the trial into their chosen formats; the others stay."""
        self.make(choices, advance)
        for name, weight_format in choices.items():
            self._trial.matrices[name].matrix = self._made[name, weight_format]

    def _made_of(self, name: str, weight_format: WeightFormat) -> Matrix:
        matrix, values = self._trial.matrices[name], self._trial.values(name)
        moments, importance = matrix.mean_moments(), importance_of(matrix)
        if moments is not None and moments.ndim - matrix.counts.ndim < 2:
            moments = None
        if values.ndim == 2:
            known = None if moments is None else damped(moments, float(matrix.counts))
            parts = self._fit(values, weight_format, importance, known)
            return self._ops.pack_codes(weight_format, parts, values.shape)
        experts = [
            self._fit(
                rows,
                weight_format,
                weights,
                None if moments is None else damped(moments[expert], matrix.counts[expert]),
            )
            for expert, (rows, weights) in enumerate(zip(values, importance, strict=True))
        ]
        stacked: Parts = tuple(np.stack(arrays) for arrays in zip(*experts, strict=True))
        return self._ops.pack_codes(weight_format, stacked, values.shape)
