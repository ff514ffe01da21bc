"""Where the files of a measured model are; what is missing is made once and kept in the cache.

Each engine gets the same weights in its own file: tribody the checkpoint, llama.cpp a GGUF that
its own quantizer made from an F16 file of that checkpoint.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import dsv3_mini
from hf_folder import write_folder
from machine import ROOT
from peer_process import PeerFailed, PeerProcess
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.hub import resolve

DSV3_MINI = "dsv3-mini"
MODELS = ("smollm2", DSV3_MINI)
TOKENIZER_OF = "smollm2"  # dsv3-mini has this model's vocabulary

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model.  `path` is what tribody loads: a Hugging Face folder or a GGUF file."""

    name: str
    path: Path
    folder: Path  # where the GGUF files are kept
    llama_python: Path | None

    @property
    def _stem(self) -> str:
        is_file = self.path.suffix == ".gguf"
        return self.path.stem.rsplit(".", 1)[0] if is_file else self.path.name

    def hf_folder(self, say: Say) -> Path:
        """transformers' folder.  It reads GGUF too, but by kernels of its own for such files."""
        if self.path.is_dir():
            return self.path
        folder = self.folder / f"{self._stem}-float32"
        if not folder.exists():
            say(f"making {folder.name}")
            with closing(open_checkpoint(self.path)) as checkpoint:
                write_folder(
                    folder,
                    checkpoint.tokenizer_source,
                    checkpoint.config,
                    lambda name, _shape: checkpoint.read(name),
                )
        return folder

    def gguf(self, weights: str, say: Say) -> Path:
        """llama.cpp's file of that type.  Raises: PeerFailed."""
        half = self.folder / f"{self._stem}.F16.gguf"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not half.exists():
            say(f"making {half.name}")
            if self.path.suffix == ".gguf":
                self._quantize(self.path, half, "F16")
            else:
                self._convert(half)
        target = self.folder / f"{self._stem}.{weights}.gguf"
        if not target.exists():
            say(f"making {target.name}")
            self._quantize(half, target, weights)
        return target

    def _quantize(self, source: Path, target: Path, weights: str) -> None:
        with PeerProcess("llama.cpp", self.llama_python) as peer:
            peer.ask("quantize", source=str(source), target=str(target), weights=weights)

    def _convert(self, target: Path) -> None:
        tokenizer = resolve(TOKENIZER_OF, cache_dir=self.folder.parent)
        program = ROOT / "bench" / "to_gguf.py"
        command = [sys.executable, str(program), str(self.path), str(tokenizer), str(target)]
        if subprocess.run(command, check=False).returncode:
            raise PeerFailed(f"{self.path} could not be converted for llama.cpp")


def label(name: str) -> str:
    """What a model is called in results: a path's last part."""
    return name.rstrip("/").rpartition("/")[2]


def find(name: str, cache: Path, llama_python: Path | None, say: Say) -> ModelFiles:
    """A model by a name that tribody knows, by a path, or dsv3-mini, which is made here.

    Raises: tribody's errors when it cannot be found or fetched.
    """
    folder = cache / "bench"
    if name != DSV3_MINI:
        return ModelFiles(label(name), resolve(name, cache_dir=cache), folder, llama_python)
    path = folder / f"{DSV3_MINI}-{dsv3_mini.content_id(dsv3_mini.CONFIG)}"
    if not path.exists():
        say(f"writing {path} (1.5 GB)")
        with closing(open_checkpoint(resolve(TOKENIZER_OF, cache_dir=cache))) as checkpoint:
            source = checkpoint.tokenizer_source
            write_folder(path, source, dsv3_mini.CONFIG, dsv3_mini.tensor)
    return ModelFiles(name, path, folder, llama_python)
