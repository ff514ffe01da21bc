"""What is measured: the cells, the formats that stand beside each other, and the filter over both.

Nothing here runs an engine.  Random token ids are made here too, because every engine must be
given the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

QUICK_STEPS = 8  # --quick: enough to see that everything runs
QUICK_DEPTH = 256


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure.

    prefill: one prompt of `depth` tokens.  decode: `batch` sequences that hold `depth` tokens when
    the timing starts, `steps` steps.
    """

    name: str
    kind: Literal["prefill", "decode"]
    batch: int
    depth: int
    steps: int = 0

    @property
    def title(self) -> str:
        if self.kind == "prefill":
            return f"prefill, {self.depth:,} tokens"
        return f"decode, {self.batch} at once, {self.depth:,} deep"

    @property
    def num_tokens(self) -> int:
        return self.depth if self.kind == "prefill" else self.batch * self.steps

    def quick(self) -> Cell:
        """The same, too short to say anything about speed."""
        depth, steps = min(self.depth, QUICK_DEPTH), min(self.steps, QUICK_STEPS)
        return Cell(self.name, self.kind, self.batch, depth, steps)


CELLS = (
    Cell("prefill-512", "prefill", 1, 512),
    Cell("prefill-2048", "prefill", 1, 2048),
    Cell("decode-0", "decode", 1, 0, 64),
    Cell("decode-1024", "decode", 1, 1024, 64),
    Cell("decode-4096", "decode", 1, 4096, 32),
    Cell("batch-1", "decode", 1, 128, 64),
    Cell("batch-4", "decode", 4, 128, 64),
    Cell("batch-8", "decode", 8, 128, 48),
    Cell("batch-16", "decode", 16, 128, 32),
    Cell("batch-32", "decode", 32, 128, 32),
)
ALL = tuple(cell.name for cell in CELLS)


ITSELF = "tribody itself"  # as its own peer, with the weights in another format


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a model: a program, its weights, and a setting of the program."""

    program: str  # "tribody", "llama.cpp", "transformers", ITSELF
    weights: str  # "w8g32", "Q8_0", "bfloat16"
    variant: str = ""  # llama.cpp: "flash" or "no flash"

    @property
    def label(self) -> str:
        return f"{self.program} {self.weights} {self.variant}".rstrip()


LIMIT = ", all on "  # between a pairing's name and the instruction set that its engines share


@dataclass(frozen=True, slots=True)
class Pairing:
    """Our format beside the peers' formats of the same size, in the cells that say most of it."""

    name: str
    ours: str  # tribody's weight format; "" until there is one
    llama: tuple[str, ...]
    transformers: tuple[str, ...] = ()
    cells: tuple[str, ...] = ALL
    itself: tuple[str, ...] = ()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """llama.cpp runs every format on both of its attention paths."""
        return (
            Engine("tribody", self.ours),
            *(Engine("llama.cpp", w, v) for w in self.llama for v in LLAMA_VARIANTS),
            *(Engine("transformers", w) for w in self.transformers),
            *(Engine(ITSELF, w) for w in self.itself),
        )

    def limited_to(self, isa: str) -> Pairing:
        """The same where no engine uses more than these instructions: a name, and tables, of its
        own.  transformers has no build for them."""
        return replace(self, name=f"{self.name}{LIMIT}{isa}", transformers=())


LLAMA_VARIANTS = {"flash": True, "no flash": False}
PAIRINGS = (
    Pairing("8-bit", "w8g32", ("Q8_0",), ("float32", "bfloat16")),
    Pairing(
        "4-bit",
        "",
        ("Q4_K_M", "Q4_0"),
        cells=("prefill-512", "prefill-2048", "decode-0", "decode-4096", "batch-8", "batch-16"),
    ),
    Pairing("hybrid", "", (), cells=("prefill-512", "decode-0", "batch-8"), itself=("float16",)),
    Pairing("16-bit", "float16", ("F16",), cells=("prefill-512", "decode-0", "batch-8")),
)

# transformers takes minutes for the others on a few cores.
TRANSFORMERS_CELLS = ("prefill-512", "prefill-2048", "decode-0", "decode-1024", "batch-8")


def is_wanted(model: str, name: str, patterns: Sequence[str]) -> bool:
    """Whether MODEL/NAME is asked for; a pattern without "/" means that name in every model.

    No pattern asks for everything.
    """
    wholes = [pattern if "/" in pattern else f"*/{pattern}" for pattern in patterns]
    return not wholes or any(fnmatch(f"{model}/{name}", whole) for whole in wholes)


def random_tokens(vocab_size: int, length: int, seed: int) -> list[int]:
    """Speed hardly depends on the ids, and no two seeds share a prefix."""
    draw = random.Random(seed)
    return [draw.randrange(vocab_size) for _ in range(length)]
