"""Typed access to a GGUF file's metadata: what a key must be, and which keys were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tribody.core.errors import BadModel
from tribody.loading.gguf_file import Value

_LARGEST = 1 << 31  # no count or id of a model reaches it


class Metadata:
    """The metadata of one file.  Every method raises BadModel naming file, key and value.

    `prefix` is the architecture's name and a dot; keys starting with "." get it in front.
    """

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        self.path = path
        self._values = values
        self._asked: set[str] = set()
        self.architecture = self.text("general.architecture")

    def _key(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def get(self, key: str) -> Value | None:
        """The raw value, None when absent."""
        full = self._key(key)
        self._asked.add(full)
        return self._values.get(full)

    def error(self, key: str, value: object, must: str) -> BadModel:
        return BadModel(f"{self.path}: metadata {self._key(key)} is {value!r:.60}; it must {must}")

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.error(key, value, "be a string")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.get(key) is None else self.text(key)

    def count(self, key: str, *, smallest: int = 1) -> int:
        """A whole number in [smallest, 2^31); a per-layer array counts when all items agree."""
        value = self.get(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, value, "be a whole number, the same for every layer")
        if not smallest <= value < _LARGEST:
            raise self.error(key, value, f"be in [{smallest}, 2^31)")
        return value

    def optional_count(self, key: str, *, smallest: int = 1) -> int | None:
        return None if self.get(key) is None else self.count(key, smallest=smallest)

    def number(self, key: str) -> float:
        """A finite number.  GGUF stores float32; the shortest decimal that means it is returned,
        so that 1e-5 reads as 1e-05 and not as 9.999999747378752e-06."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.error(key, value, "be a finite number")
        return float(str(np.float32(value))) if isinstance(value, float) else float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool | None:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, value, "be a bool")
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings, [] when absent."""
        value = self.get(key)
        if value is None or (isinstance(value, np.ndarray) and value.size == 0):
            return []
        if not isinstance(value, list):
            raise self.error(key, value, "be an array of strings")
        return value

    def numbers(self, key: str) -> list[int | float]:
        """An array of numbers, [] when absent."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, np.ndarray):
            raise self.error(key, value, "be an array of numbers")
        return list(value.tolist())

    def never_asked(self) -> list[str]:
        """Keys of the architecture that no method was called for, in file order."""
        prefix = self.architecture + "."
        return [k for k in self._values if k.startswith(prefix) and k not in self._asked]
