"""From an open checkpoint to a model that runs: the one place that knows every family."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tribody.core.config import WeightFormat
from tribody.models import deepseek_v3, llama
from tribody.models.config import GroupedQuery, ModelConfig, read_config
from tribody.models.step_input import Model
from tribody.models.weights import Progress, Shapes, TensorSource, WeightReader, check_tensors
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


def load_model(
    checkpoint: TensorSource,
    ops: Ops,
    weight_format: WeightFormat,
    progress: Progress | None = None,
) -> Model:
    """Check the checkpoint against its config, then read and pack it tensor by tensor.

    Norm weights, biases and router weights stay float32 whatever the format.  Config keys that
    are not known, and tensors that are not used, are logged once.
    Raises: BadModel naming the key or tensor, what was expected and what was found.
    """
    config = read_config(checkpoint.config)
    if config.unknown_keys:
        logger.warning("unknown_config_keys=%s", ",".join(config.unknown_keys))
    if config.num_mtp_layers:
        logger.info("mtp_layers_skipped=%d", config.num_mtp_layers)
    family = family_of(config)
    total = check_tensors(checkpoint, family.tensor_shapes(config), family.skipped_tensors(config))
    return family.build(config, WeightReader(checkpoint, ops, weight_format, total, progress))
