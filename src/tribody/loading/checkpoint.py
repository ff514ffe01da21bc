"""Opening a model's files, whatever their form."""

from __future__ import annotations

from pathlib import Path

from tribody.core.errors import BadModel
from tribody.loading.checkpoint_face import Checkpoint
from tribody.loading.config_json import check_folder, find_weights
from tribody.loading.gguf_checkpoint import GgufCheckpoint
from tribody.loading.packed_checkpoint import SUFFIX, PackedCheckpoint
from tribody.loading.safetensors_checkpoint import SafetensorsCheckpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder, a .gguf file or a packed .tribody file.

    Raises: BadModel on anything malformed, unsafe or not supported; the message names the file.
    """
    if path.is_dir():
        check_folder(path)
        weights = find_weights(path)
        if weights.suffix != ".gguf":
            return SafetensorsCheckpoint(path, weights)
        path = weights
    if path.suffix == SUFFIX:
        return PackedCheckpoint(path)
    if path.suffix != ".gguf":
        raise BadModel(
            f"{path}: is neither a model folder nor a .gguf or .tribody file; for safetensors name "
            "the folder that also holds config.json"
        )
    return GgufCheckpoint(path)
