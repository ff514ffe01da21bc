"""DeepSeek-V3 in FP8 with 128 x 128 scales gives the logits of its dequantized twin."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.models.five_ways import whole
from tests.models.tiny import CONFIGS, MemoryCheckpoint, tiny_tokens, tiny_weights
from tribody.loading.checkpoint import open_checkpoint
from tribody.models.load import load_model
from tribody.ops import reference

TILE = 128
LARGEST = 448.0  # the largest finite E4M3 value
KEPT = ("norm", "embed_tokens", "lm_head", "mlp.gate.")  # models.md A.2: not quantized


def quantize(values: NDArray[np.float32]) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Codes and one scale per 128 x 128 tile (ragged at the edges), as DeepSeek's weights are."""
    rows, columns = values.shape
    scales = np.zeros((-(-rows // TILE), -(-columns // TILE)), np.float32)
    codes = np.zeros(values.shape, ml_dtypes.float8_e4m3fn)
    for i, j in np.ndindex(scales.shape):
        tile = np.s_[i * TILE : (i + 1) * TILE, j * TILE : (j + 1) * TILE]
        scales[i, j] = np.abs(values[tile]).max() / LARGEST
        codes[tile] = (values[tile] / scales[i, j]).astype(ml_dtypes.float8_e4m3fn)
    return codes, scales


def dequantize(codes: NDArray[np.generic], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = np.kron(scales, np.ones((TILE, TILE), np.float32))
    return codes.astype(np.float32) * spread[: codes.shape[0], : codes.shape[1]]


def test_fp8_checkpoint_equals_its_dequantized_twin(tmp_path: Path) -> None:
    """Hidden 192 and inner 160 leave ragged tiles on both axes."""
    config = CONFIGS["v3-q-lora"] | {"hidden_size": 192, "intermediate_size": 160}
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [TILE, TILE],
    }
    stored: dict[str, NDArray[np.generic]] = {}
    twin: dict[str, NDArray[np.float32]] = {}
    for name, values in tiny_weights(config, seed=5).items():
        if values.ndim == 1 or any(word in name for word in KEPT):
            stored[name] = twin[name] = values
        else:
            codes, scales = quantize(values)
            stored[name], stored[f"{name}_scale_inv"] = codes, scales
            twin[name] = dequantize(codes, scales)
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokens = tiny_tokens(40)
    from_disk = load_model(open_checkpoint(tmp_path), reference.OPS, "float32")
    in_memory = load_model(MemoryCheckpoint(config, twin), reference.OPS, "float32")
    expected = whole(in_memory, tokens)
    np.testing.assert_array_equal(whole(from_disk, tokens), expected)
    assert np.abs(expected).max() > 1
