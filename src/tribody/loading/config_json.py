"""The folder of a checkpoint: what may be in it, and its JSON and text files.

A model folder is data.  Anything that other tools would execute is refused by name: Python files,
`auto_map` (which asks for such files), pickled weights without safetensors beside them; so are
symbolic links that leave the folder, devices and FIFOs.  Hugging Face's own cache is a forest of
links into `../../blobs` and is therefore refused too; `hf:org/name` downloads plain files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading.open_file import read_small_file

MAX_CONFIG_BYTES = 16 << 20  # config.json of the largest models is a few kilobytes
MAX_TOKENIZER_BYTES = 256 << 20  # tokenizer.json reaches 30 MB for vocabularies of 250,000 tokens
MAX_INDEX_BYTES = 64 << 20  # the index of DeepSeek-V3 (91,000 tensors) has 9 MB
_MAX_FOLDER_ENTRIES = 20_000
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")  # of a split GGUF file
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so"})


def check_folder(folder: Path) -> None:
    """Refuse code, links that leave the folder and special files, at any depth.

    Raises: BadModel naming the entry and the remedy.
    """
    root = folder.resolve()
    for count, path in enumerate(_entries(folder), start=1):
        if count > _MAX_FOLDER_ENTRIES:
            raise BadModel(
                f"{folder}: has more than {_MAX_FOLDER_ENTRIES} entries; "
                "this is not the folder of one model"
            )
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = path.resolve()
            if not target.is_relative_to(root):
                raise BadModel(
                    f"{path}: is a symbolic link to {target}, outside the model folder; copy the "
                    "files (cp -rL) or name the model as hf:org/name to download plain files"
                )
            mode = target.stat().st_mode if target.exists() else mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BadModel(f"{path}: is neither a file nor a folder; remove it")
        if path.suffix in _CODE_SUFFIXES:
            raise BadModel(
                f"{path}: the folder contains code; tribody never runs code from a model: "
                "remove the file"
            )


def _entries(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in sorted(folders) + sorted(files):
            yield Path(parent, name)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path, limit_bytes: int = MAX_CONFIG_BYTES) -> dict[str, object]:
    """Parse a file that must hold one JSON object.

    Raises: BadModel when it is too large, not UTF-8, not JSON, not an object, or has a key twice.
    """
    raw = read_small_file(path, limit_bytes)
    try:
        value = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise BadModel(f"{path}: is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadModel(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def read_optional_json(path: Path) -> dict[str, object]:
    """As `read_json`; {} when the file does not exist."""
    return read_json(path) if os.path.lexists(path) else {}


def read_config(folder: Path) -> dict[str, object]:
    """config.json of a model folder.

    Raises: BadModel when it is missing, malformed or asks for code (`auto_map`).
    """
    path = folder / "config.json"
    if not path.exists():
        raise BadModel(f"{folder}: has no config.json; a model folder needs one")
    config = read_json(path)
    _refuse_auto_map(path, config)
    if not isinstance(config.get("model_type"), str):
        raise BadModel(f"{path}: model_type is missing; it must name the family, e.g. 'llama'")
    return config


def _refuse_auto_map(path: Path, config: dict[str, object]) -> None:
    if "auto_map" in config:
        raise BadModel(
            f"{path}: the key auto_map asks to run code from the model; tribody has its own "
            "implementations and never runs it: delete the key"
        )


def read_tokenizer_source(folder: Path) -> TokenizerSource:
    """The tokenizer files of a model folder; absent ones stay empty.

    The chat template is chat_template.jinja, else the tokenizer configuration's key; where that
    key holds several named templates, the one called "default".
    """
    config_path = folder / "tokenizer_config.json"
    config = read_optional_json(config_path)
    _refuse_auto_map(config_path, config)
    json_path = folder / "tokenizer.json"
    tokenizer_json = (
        read_small_file(json_path, MAX_TOKENIZER_BYTES) if os.path.lexists(json_path) else None
    )
    template_path = folder / "chat_template.jinja"
    if os.path.lexists(template_path):
        raw = read_small_file(template_path, MAX_CONFIG_BYTES)
        try:
            template: str | None = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadModel(f"{template_path}: is not UTF-8 at byte {error.start}") from error
    else:
        template = _template_of(config_path, config.get("chat_template"))
    return TokenizerSource(
        tokenizer_json=tokenizer_json, tokenizer_config=config, chat_template=template
    )


def _template_of(path: Path, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        template = named.get("default")
        if isinstance(template, str):
            return template
    raise BadModel(
        f"{path}: chat_template must be a string or a list with a template named 'default'"
    )


def find_weights(folder: Path) -> Path:
    """The weights of a folder: an index, the one .safetensors file, or the one .gguf file (the
    first part of a split one).

    Raises: BadModel when there are none, only pickles, or several without an index.
    """
    index = folder / "model.safetensors.index.json"
    if os.path.lexists(index):
        return index
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for suffix, remedy in (
        (".safetensors", "add model.safetensors.index.json or keep one"),
        (".gguf", "name one of the files instead of the folder"),
    ):
        found = [
            path for path in files if path.suffix == suffix and not _LATER_PART.search(path.name)
        ]
        if len(found) > 1:
            raise BadModel(f"{folder}: has {len(found)} {suffix} files and no index; {remedy}")
        if found:
            return found[0]
    pickles = [path.name for path in files if path.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise BadModel(
            f"{folder}: the only weights are pickles ({', '.join(pickles[:3])}), which can run "
            "code when loaded; convert them to safetensors"
        )
    raise BadModel(f"{folder}: has no .safetensors and no .gguf file")
