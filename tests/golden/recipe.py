"""What the goldens are made of: shared by the script that writes them and tests that hold them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
LOGITS = FOLDER / "logits.npz"
LOGITS_RECIPE = FOLDER / "logits.json"
SMOLLM2 = FOLDER / "smollm2.json"

WEIGHT_SEED = 11
TOKEN_SEED = 12
NUM_TOKENS = 90  # crosses a page (64), so that chunks, pages and prefix hits differ
POSITIONS = (0, 1, 5, 17, 39, 40, 62, 63, 64, 65, 77, 89)  # stored: edges of pages and chunks

NUM_GREEDY_TOKENS = 64
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Photosynthesis is the process by which",
    "The three laws of thermodynamics state that",
    "Dear Sir or Madam,\n\nI am writing to",
    "To make a good cup of coffee, first",
    "Q: What is the difference between a list and a tuple in Python?\nA:",
    "1, 1, 2, 3, 5, 8, 13,",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is the largest planet?<|im_end|>\n<|im_start|>assistant\n",
    "中国的首都是",
    "人工智能是计算机科学的一个分支，它",
    "从前有一座山，山上有一座庙，",
    "<|im_start|>user\n请用一句话介绍北京。<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    ",
    "import numpy as np\n\ndef softmax(x):\n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, age FROM users WHERE",
    "<html>\n<head>\n<title>",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(tensors: dict[str, NDArray[np.float32]]) -> str:
    """Over names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()
