"""A trained state to Hugging Face folders: BF16, and FP8 in tiles of 128 x 128.

Both hold the MTP module as DeepSeek publishes it: one more decoder layer after the last, with its
own copies of the embedding and the head.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from recipes.mini_r1 import tokenizer as mini_tokenizer
from recipes.mini_r1.model import MiniR1
from recipes.mini_r1.shape import Shape

TILE = 128
FP8_MAX = 448.0
# As in DeepSeek-V3: embedding, head, norms, router and the MTP projection stay as they are.
KEPT = ("embed_tokens", "lm_head", "head", "gate", "eh_proj")


def tensors(model: MiniR1, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """The published names; `dtype` but for the correction biases, which are float32."""
    shape = model.shape
    last = f"model.layers.{shape.num_hidden_layers}"
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name in ("embed_tokens", "lm_head.weight"):
            trunk, copy = (
                ("model.embed_tokens", f"{last}.embed_tokens")
                if name == "embed_tokens"
                else ("lm_head", f"{last}.shared_head.head")
            )
            found[f"{trunk}.weight"] = value
            found[f"{copy}.weight"] = value.clone()
        elif name.startswith("mtp.layer."):
            found[f"{last}.{name.removeprefix('mtp.layer.')}"] = value
        elif name == "mtp.norm.weight":
            found[f"{last}.shared_head.norm.weight"] = value
        else:
            found[f"{last if name.startswith('mtp.') else 'model'}.{name.removeprefix('mtp.')}"] = (
                value
            )
    for name in [name for name in found if ".experts." in name]:
        found |= _split_experts(name, found.pop(name), shape)
    return {
        name: value.float() if name.endswith("correction_bias") else value.to(dtype).contiguous()
        for name, value in sorted(found.items())
    }


def _split_experts(name: str, stacked: Tensor, shape: Shape) -> dict[str, Tensor]:
    """(E, inputs, outputs) to one (outputs, inputs) a projection and expert."""
    prefix, _, kind = name.rpartition(".")
    names = ("gate_proj", "up_proj") if kind == "gate_up" else ("down_proj",)
    made = {}
    for expert, matrix in enumerate(stacked):
        for projection, part in zip(names, matrix.T.chunk(len(names)), strict=True):
            made[f"{prefix}.{expert}.{projection}.weight"] = part
    return made


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 codes of weight's shape, and float32 scales (one a tile) that they are multiplied by."""
    rows, columns = weight.shape
    tiles_down, tiles_across = -(-rows // TILE), -(-columns // TILE)
    padded = torch.zeros(tiles_down * TILE, tiles_across * TILE)
    padded[:rows, :columns] = weight.float()
    tiles = padded.view(tiles_down, TILE, tiles_across, TILE)
    scales = tiles.abs().amax(dim=(1, 3)).clamp(min=1e-12) / FP8_MAX
    codes = (tiles / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    return codes.view_as(padded)[:rows, :columns].contiguous(), scales


def fp8_tensors(plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same checkpoint with its matrices in FP8 and their `weight_scale_inv`."""
    made: dict[str, Tensor] = {}
    for name, value in plain.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if value.dim() == 2 and module not in KEPT:
            made[name], made[f"{name}_scale_inv"] = quantize(value)
        else:
            made[name] = value
    return made


def write(model: MiniR1, tokenizer: Tokenizer, root: Path, chat_template: str) -> None:
    """The folders root/mini-r1 and root/mini-r1-fp8."""
    plain = tensors(model)
    fp8: dict[str, object] = {
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [TILE, TILE],
        }
    }
    _write_folder(root / "mini-r1", model.shape, plain, {}, tokenizer, chat_template)
    _write_folder(
        root / "mini-r1-fp8", model.shape, fp8_tensors(plain), fp8, tokenizer, chat_template
    )


def write_float32(model: MiniR1, tokenizer: Tokenizer, folder: Path, chat_template: str) -> None:
    """One folder whose weights are not rounded."""
    values = tensors(model, torch.float32)
    _write_folder(folder, model.shape, values, {}, tokenizer, chat_template)


def _write_folder(
    folder: Path,
    shape: Shape,
    values: dict[str, Tensor],
    more: dict[str, object],
    tokenizer: Tokenizer,
    chat_template: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library writes it for its owner alone
    ends = {"bos_token_id": mini_tokenizer.BOS_ID, "eos_token_id": mini_tokenizer.EOS_ID}
    _write_json(folder / "config.json", shape.config() | ends | more)
    _write_json(folder / "generation_config.json", {**ends, "do_sample": False})
    mini_tokenizer.write(tokenizer, folder, chat_template, shape.max_position_embeddings)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
