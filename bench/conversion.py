"""Do the engines compute the same model?  llama.cpp in F16 against tribody in float32.

    .venv-bench/bin/python bench/conversion.py --model dsv3-mini

tribody continues a few prompts greedily (prompts in the expanded, continuations in the absorbed
form of latent attention); llama.cpp is then given the same tokens and asked what it would have
chosen after each.  Tokens may differ where the two best are nearly equal: F16 weights and
activations move logits, and a router that moves past a tie moves them more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import model_files
from cells import random_tokens
from peer_process import PeerProcess
from tribody import LLM
from tribody.loading.download import default_cache_dir

PROMPT_LENGTHS = (5, 70, 300)  # within one page of 64, and across some
GENERATED = 24
NEAR_TIE = 0.05  # of the logits' standard deviation: how far apart two tokens may be taken for one

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `positions`, how many chose the same token; of the others, how many were near ties.

    `difference`: root mean square of the logits' differences over that of the logits, the median
    and the largest of all positions.
    """

    model: str
    positions: int
    equal: int
    near_ties: int
    difference_median: float
    difference_max: float

    @property
    def holds(self) -> bool:
        return self.equal + self.near_ties == self.positions


def compare(model: str, chosen: NDArray[np.int64], ours: F32, theirs: F32) -> Agreement:
    """Logits (positions, V) of both engines after the same tokens, and what tribody chose."""
    rows = np.arange(len(ours))
    other = theirs.argmax(axis=1)
    gaps = theirs[rows, other] - theirs[rows, chosen]
    ties = (chosen != other) & (gaps < NEAR_TIE * theirs.std(axis=1))
    differences = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(ours, axis=1)
    return Agreement(
        model=model,
        positions=len(ours),
        equal=int((chosen == other).sum()),
        near_ties=int(ties.sum()),
        difference_median=float(np.median(differences)),
        difference_max=float(differences.max()),
    )


def check(files: model_files.ModelFiles, threads: int) -> Agreement:
    llm = LLM(files.path, "float32", num_threads=threads, kv_budget_bytes=1 << 28)
    chosen: list[int] = []
    ours: list[F32] = []
    theirs: list[F32] = []
    with PeerProcess("llama.cpp", files.llama_python) as peer, tempfile.TemporaryDirectory() as tmp:
        path = str(files.gguf("F16", print_to_stderr))
        longest = {"prefill": max(PROMPT_LENGTHS) + GENERATED}
        peer.ask("load", path=path, threads=llm.info.num_threads, sequences=longest)
        for length in PROMPT_LENGTHS:
            prompt = random_tokens(llm.info.vocab_size, length, seed=length)
            answer = llm.generate([prompt], temperature=0, max_tokens=GENERATED, ignore_eos=True)
            generated = answer[0].choices[0].token_ids
            tokens = prompt + generated[:-1]
            target = Path(tmp) / "logits.npy"
            peer.ask("logits", tokens=tokens, first=length - 1, target=str(target))
            chosen += generated
            ours.append(llm.logits(tokens)[length - 1 :])
            theirs.append(np.load(target))
    return compare(files.name, np.array(chosen), np.concatenate(ours), np.concatenate(theirs))


def print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=model_files.DSV3_MINI)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--llama-python", type=Path)
    options = parser.parse_args()
    cache = default_cache_dir(os.environ)
    files = model_files.find(options.model, cache, options.llama_python, print_to_stderr)
    agreement = check(files, options.threads)
    print(json.dumps(asdict(agreement)))
    return 0 if agreement.holds else 1


if __name__ == "__main__":
    sys.exit(main())
