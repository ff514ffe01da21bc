"""The engine under test: the same Engine that the server's child runs, in a process of its own.

    load {path, weights, threads, isa, batch} -> {vocab_size, weight_bytes, version, …}
    run  {cell, variant, seed}                -> {seconds, steps}

What is timed is Engine.step(): scheduling, the model, choosing the token and the events, all that
a served token costs short of the socket and the text.  The sequences of a decode cell find their
prompts in the prefix cache after the first time, as the peers keep theirs.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import msgspec

from cells import Cell, random_tokens
from machine import commit
from peers.loop import Record, answer_questions
from tribody import _native
from tribody.core.config import PAGE_SIZE, EngineConfig
from tribody.core.request import Request, SamplingParams
from tribody.engine.build import build_engine
from tribody.precision.formats import FORMATS

KV_BUDGET_BYTES = 1 << 29
# 22,000 tokens of a model with 23 KB a token: all cells' sequences (9,300) stay in the prefix
# cache while the prompts of the prefill cells come and go.


class Subject:
    """tribody's engine with one model."""

    def __init__(self, path: Path, weights: str, num_threads: int, max_running: int) -> None:
        """`weights`: a format's name; "" for a packed file, which has its own."""
        config = EngineConfig(
            model_path=str(path),
            kv_format="float16",
            kv_budget_bytes=KV_BUDGET_BYTES,
            num_threads=num_threads,
            max_running=max_running,
            speculation="off",  # both sides compute every token; bench/speculation.py has the rest
        )
        if weights:
            config = msgspec.structs.replace(config, weight_format=weights)
        self.engine, self.info = build_engine(config, lambda _done, _total: None)
        self._numbers = itertools.count()

    def _submit(self, tokens: list[int], max_tokens: int, salt: str) -> str:
        request_id = f"bench-{next(self._numbers)}"
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self.engine.submit(
            Request(
                id=request_id,
                prompt_token_ids=tokens,
                sampling=sampling,
                cache_salt=salt or request_id,  # its own: nothing is found in the prefix cache
            )
        )
        return request_id

    def run(self, cell: Cell, seed: int) -> float:
        """Seconds of the cell's timed part."""
        if cell.kind == "prefill":
            return self.prefill(cell, seed)
        requests = self.fill(cell)
        seconds = self.decode(cell)
        self.clear(requests)
        return seconds

    def prefill(self, cell: Cell, seed: int) -> float:
        """Seconds of one prompt, which the prefix cache does not hold, and its first token."""
        self._submit(random_tokens(self.info.vocab_size, cell.depth, seed), 1, salt="")
        started = time.perf_counter()
        while self.engine.has_work():
            self.engine.step()
        return time.perf_counter() - started

    def fill(self, cell: Cell) -> list[str]:
        """Bring a decode cell's sequences to where every step decodes all of them.

        One token more than the depth, so that all its whole pages are found in the prefix cache.
        """
        limit = self.info.max_context_tokens - cell.depth - PAGE_SIZE
        requests = [
            self._submit(
                random_tokens(self.info.vocab_size, cell.depth + 1, sequence), limit, salt="decode"
            )
            for sequence in range(cell.batch)
        ]
        begun: set[str] = set()
        while len(begun) < cell.batch:
            begun |= {event.request_id for event in self.engine.step()}
        return requests

    def decode(self, cell: Cell) -> float:
        """Seconds of `cell.steps` steps, after `fill`."""
        started = time.perf_counter()
        num_tokens = sum(len(self.engine.step()) for _ in range(cell.steps))
        seconds = time.perf_counter() - started
        assert num_tokens == cell.batch * cell.steps, "a step did not decode every sequence once"
        return seconds

    def clear(self, requests: list[str]) -> None:
        """End the requests; their prompts' pages stay in the prefix cache."""
        for request in requests:
            self.engine.abort(request)
        self.engine.step()


def main() -> None:
    loaded: list[Subject] = []

    def load(path: str, weights: str, threads: int, isa: str | None, batch: int) -> Record:
        if isa:
            _native.set_isa(isa)
        subject = Subject(Path(path), weights, threads, batch)
        loaded[:] = [subject]
        info = subject.info
        bits = [f.bits_per_weight for f in FORMATS.values() if f.name == weights]
        return {
            "vocab_size": info.vocab_size,
            "weight_bytes": info.weight_bytes,
            "bits_per_weight": bits[0] if bits else None,
            "load_seconds": info.load_seconds,
            "threads": info.num_threads,
            "system": info.isa,
            "version": f"tribody {commit()}",
        }

    def run(cell: dict[str, object], variant: str, seed: int) -> Record:
        assert not variant
        wanted = Cell(**cell)  # type: ignore[arg-type]
        return {"seconds": loaded[0].run(wanted, seed), "steps": wanted.steps}

    answer_questions({"load": load, "run": run})


if __name__ == "__main__":
    main()
