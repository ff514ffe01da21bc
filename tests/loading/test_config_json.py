"""Model folders: what may be in them, their JSON files and their tokenizer files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loading.refusal import assert_refused
from tests.loading.safetensors_maker import write
from tribody.core.errors import BadModel
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.config_json import MAX_CONFIG_BYTES, read_json, read_tokenizer_source


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that is accepted; each test spoils it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    write(folder / "model.safetensors", {"a": ("F32", [1], bytes(4))})
    open_checkpoint(folder).close()
    return folder


def replace_weights(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    outside.write_text("{}")
    (folder / "tokenizer.json").symlink_to(outside)


def cache_layout(folder: Path) -> None:
    """Hugging Face's own cache: weights are links into a folder of blobs."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    (folder / "model.safetensors").symlink_to("../blobs/abc")


def folder_link(folder: Path) -> None:
    (folder / "sub").symlink_to("/etc")


def deep_code(folder: Path) -> None:
    (folder / "inference").mkdir()
    (folder / "inference" / "model.py").touch()


def config_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "auto_map": (
        lambda f: (f / "config.json").write_text('{"model_type": "x", "auto_map": {}}'),
        "auto_map asks to run code",
    ),
    "python file": (lambda f: (f / "modeling_x.py").touch(), "contains code"),
    "python file deep inside": (deep_code, "contains code"),
    "compiled file": (lambda f: (f / "kernel.so").touch(), "contains code"),
    "link outside": (link_outside, "symbolic link"),
    "folder link outside": (folder_link, "symbolic link"),
    "hugging face cache": (cache_layout, "outside the model folder.*hf:org/name"),
    "link to nothing outside": (lambda f: (f / "x").symlink_to("../nothing"), "symbolic link"),
    "fifo": (lambda f: os.mkfifo(f / "tokenizer.json"), "neither a file nor a folder"),
    "only pickles": (lambda f: replace_weights(f, "pytorch_model.bin"), "only weights are pickles"),
    "only .pth": (lambda f: replace_weights(f, "consolidated.00.pth"), "only weights are pickles"),
    "only .ckpt": (lambda f: replace_weights(f, "model.ckpt"), "only weights are pickles"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no .safetensors"),
    "two weights without index": (
        lambda f: write(f / "more.safetensors", {"b": ("F32", [1], bytes(4))}),
        "2 .safetensors files and no index",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config a folder": (
        config_folder,
        "not a regular file",
    ),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "config not UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"\xff":1}'), "not UTF-8"),
    "config with NaN": (lambda f: (f / "config.json").write_text('{"a": NaN}'), "NaN is not"),
    "config nested too deep": (
        lambda f: (f / "config.json").write_text('{"a":' + "[" * 100_000),
        "not valid JSON",
    ),
    "config with a key twice": (
        lambda f: (f / "config.json").write_text('{"model_type": "a", "model_type": "b"}'),
        "twice",
    ),
    "config without model_type": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "generation_config a number": (
        lambda f: (f / "generation_config.json").write_text("1"),
        "generation_config.json: must hold",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_folder_is_refused(case: str, model: Path) -> None:
    spoil, message = SPOILED[case]
    spoil(model)
    assert_refused(open_checkpoint, model, message)


def test_harmless_company_is_accepted(model: Path) -> None:
    """Pickles beside safetensors are never opened; links inside the folder are fine."""
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (model / "README.md").symlink_to("config.json")
    (model / "original").mkdir()
    (model / "original" / "consolidated.00.pth").touch()
    open_checkpoint(model).close()


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {})
    with pytest.raises(BadModel, match="name the folder"):
        open_checkpoint(path)
    with pytest.raises(BadModel, match="neither a model folder"):
        open_checkpoint(tmp_path / "nothing")


def test_a_json_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, MAX_CONFIG_BYTES + 1)
    with pytest.raises(BadModel, match=f"{MAX_CONFIG_BYTES + 1} bytes, more than"):
        read_json(path)


def test_tokenizer_files(model: Path) -> None:
    empty = read_tokenizer_source(model)
    assert (empty.tokenizer_json, empty.tokenizer_config, empty.chat_template) == (None, {}, None)
    (model / "tokenizer.json").write_bytes(b"{}")
    config = {"eos_token": "</s>", "chat_template": "from the config"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    source = open_checkpoint(model).tokenizer_source
    assert source.tokenizer_json == b"{}"
    assert source.tokenizer_config == config
    assert source.chat_template == "from the config"
    assert source.gguf_vocabulary is None
    (model / "chat_template.jinja").write_text("from the file")
    assert read_tokenizer_source(model).chat_template == "from the file"


def test_named_chat_templates(model: Path) -> None:
    path = model / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    path.write_text(json.dumps({"chat_template": named}))
    assert read_tokenizer_source(model).chat_template == "d"
    path.write_text(json.dumps({"chat_template": named[:1]}))
    with pytest.raises(BadModel, match="named 'default'"):
        read_tokenizer_source(model)
    path.write_text(json.dumps({"auto_map": {}}))
    with pytest.raises(BadModel, match="auto_map"):
        read_tokenizer_source(model)
