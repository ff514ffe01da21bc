"""A model loaded at one precision, and its logits over given tokens.

The weights, the operators and the paged KV memory are those that the server runs; nothing here is
a second implementation.  A precision has two halves, because each costs quality on its own: the
format of the weights and that of the KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from tribody.core.config import EngineConfig, KVFormat, WeightChoice
from tribody.core.errors import BadConfig
from tribody.engine.build import BuiltEngine, build
from tribody.loading.packed_checkpoint import SUFFIX
from tribody.ops.table import F32

Backend = Literal["native", "reference"]


@dataclass(frozen=True, slots=True)
class Precision:
    """In which number formats a model runs: `packed` is a .tribody file, in place of `weights`."""

    weights: WeightChoice
    kv: KVFormat
    packed: Path | None = None

    @property
    def name(self) -> str:
        """As `parse_precision` reads it; the KV format only where it is not the usual one."""
        weights = self.weights if self.packed is None else self.packed.name
        return weights if self.kv == usual_kv(self.weights) else f"{weights}/{self.kv}"


REFERENCE = Precision("float32", "float32")


def usual_kv(weights: WeightChoice) -> KVFormat:
    """The cache that `tribody serve --dtype` uses beside these weights."""
    return "float32" if weights == "float32" else "float16"


def parse_precision(text: str) -> Precision:
    """`w8g32` is as served; `w8g32/float32` sets the KV cache apart from the weights.

    A path that ends in .tribody is a packed file of the same model, with the usual cache.
    Raises: BadConfig.
    """
    if text.endswith(SUFFIX):
        path = Path(text)
        if not path.is_file():
            raise BadConfig(f"--format {text}: there is no such file; tribody quantize writes one")
        return Precision("w8g32", usual_kv("w8g32"), path)
    weights, slash, kv = text.partition("/")
    for known in get_args(WeightChoice):
        if weights == known:
            if not slash:
                return Precision(known, usual_kv(known))
            for known_kv in get_args(KVFormat):
                if kv == known_kv:
                    return Precision(known, known_kv)
    raise BadConfig(
        f"--format {text!r} is not known; choose a {SUFFIX} file or one of "
        f"{', '.join(get_args(WeightChoice))}, with /{' or /'.join(get_args(KVFormat))} after it "
        "for another KV cache than the usual one"
    )


class LoadedModel:
    """One model at one precision.  Several may be loaded at a time, run one after the other.

    `backend` "reference" computes with plain NumPy, slowly, in another order of summation.
    Raises: BadModel, BadConfig.
    """

    def __init__(
        self,
        config: EngineConfig,
        precision: Precision,
        backend: Backend = "native",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        chosen = msgspec.structs.replace(
            config,
            model_path=str(precision.packed or config.model_path),
            weight_format=precision.weights,
            kv_format=precision.kv,
            ops=backend,
        )
        self.precision = precision
        self.built: BuiltEngine = build(chosen, progress)

    def logits(self, token_ids: Sequence[int], first: int) -> Iterator[tuple[int, F32]]:
        """(position, logits (R, V)) of the positions [first, T), in pieces that depend on T and
        `first` only, so those of two models pair up.

        An array is valid until this model's next piece.
        """
        kv = self.precision.kv
        return self.built.executor.logit_chunks(token_ids, first, kv)
