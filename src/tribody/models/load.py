"""From an open checkpoint to a model that runs: the one place that knows every family."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from tribody.core.config import WeightChoice
from tribody.models import deepseek_mtp, deepseek_v3, llama
from tribody.models.config import GroupedQuery, ModelConfig, read_config
from tribody.models.deepseek_mtp import DeepseekMTP
from tribody.models.deepseek_v3 import DeepseekV3
from tribody.models.step_input import Model
from tribody.models.weights import (
    CheckpointReader,
    PackedReader,
    PackedSource,
    Progress,
    Shapes,
    TensorSource,
    WeightReader,
    check_tensors,
)
from tribody.ops.table import Ops

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """What a family's module offers."""

    tensor_shapes: Callable[[ModelConfig], Shapes]
    skipped_tensors: Callable[[ModelConfig], tuple[str, ...]]
    build: Callable[[ModelConfig, WeightReader], Model]


GROUPED_QUERY = Family(llama.tensor_shapes, llama.skipped_tensors, llama.Llama)
LATENT = Family(deepseek_v3.tensor_shapes, deepseek_v3.skipped_tensors, deepseek_v3.DeepseekV3)


def family_of(config: ModelConfig) -> Family:
    """The mathematics that the config's attention asks for."""
    return GROUPED_QUERY if isinstance(config.attention, GroupedQuery) else LATENT


def has_drafter(checkpoint: TensorSource | PackedSource) -> bool:
    """Whether the checkpoint holds a multi-token-prediction module; many conversions leave it out.

    Raises: BadModel.
    """
    config = read_config(checkpoint.config)
    wanted = deepseek_mtp.main_tensor(config)
    return (
        config.num_mtp_layers > 0 and family_of(config) is LATENT and wanted in checkpoint.names()
    )


def load_model(
    checkpoint: TensorSource | PackedSource,
    ops: Ops,
    weight_format: WeightChoice,
    progress: Progress | None = None,
    *,
    drafter: bool = False,
) -> Model:
    """Check the checkpoint against its config, then read and pack it tensor by tensor.

    "stored" keeps the checkpoint's own numbers (CheckpointReader).  A packed checkpoint is taken as
    it is, whatever `weight_format`.
    `drafter`: read its multi-token-prediction module too (`has_drafter`).
    Norm weights, biases and router weights stay float32 whatever the format.  Config keys that
    are not known, and tensors that are not used, are logged once.
    Raises: BadModel naming the key or tensor, what was expected and what was found.
    """
    config = read_config(checkpoint.config)
    if config.unknown_keys:
        logger.warning("unknown_config_keys=%s", ",".join(config.unknown_keys))
    if config.num_mtp_layers > drafter:
        logger.info("mtp_layers_skipped=%d", config.num_mtp_layers - drafter)
    family = family_of(config)
    shapes = family.tensor_shapes(config)
    if drafter:
        shapes = itertools.chain(shapes, deepseek_mtp.tensor_shapes(config))
    weights: WeightReader
    if isinstance(checkpoint, PackedSource):
        weights = PackedReader(checkpoint, ops, dict(shapes))
    else:
        total = check_tensors(checkpoint, shapes, family.skipped_tensors(config))
        weights = CheckpointReader(checkpoint, ops, weight_format, total, progress)
    model = family.build(config, weights)
    if drafter:
        assert isinstance(model, DeepseekV3)
        model.drafter = DeepseekMTP(model, weights)
    return model
