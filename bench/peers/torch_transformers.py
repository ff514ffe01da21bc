"""transformers (torch) as a peer: greedy decoding by hand over its own cache, no `generate`.

    load {path, weights, threads} -> {vocab_size, weight_bytes, version, …}
    run  {cell, variant, seed}    -> {seconds, steps}

`path` is a Hugging Face folder; `weights` is the dtype of weights, activations and cache.  A decode
that takes longer than LONGEST_SECONDS stops early and says how many steps it made.  Caches of
filled sequences are kept and cut back after every timing.
"""

from __future__ import annotations

import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from cells import Cell, random_tokens
from peers.loop import Record, answer_questions

LONGEST_SECONDS = 15.0


class Peer:
    """One loaded model."""

    def load(self, path: str, weights: str, threads: int) -> Record:
        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        started = time.perf_counter()
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, weights), local_files_only=True
        ).eval()
        self._vocab_size = int(self._model.config.vocab_size)
        self._caches: dict[tuple[int, int], DynamicCache] = {}
        distinct = {p.data_ptr(): p.nbytes for p in self._model.parameters()}
        return {
            "vocab_size": self._vocab_size,
            "weight_bytes": sum(distinct.values()),
            "load_seconds": time.perf_counter() - started,
            "system": torch.backends.cpu.get_cpu_capability(),
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }

    def run(self, cell: dict[str, object], variant: str, seed: int) -> Record:
        assert not variant
        wanted = Cell(**cell)  # type: ignore[arg-type]
        with torch.inference_mode():
            return self._prefill(wanted, seed) if wanted.kind == "prefill" else self._decode(wanted)

    def _prefill(self, cell: Cell, seed: int) -> Record:
        prompt = torch.tensor([random_tokens(self._vocab_size, cell.depth, seed)])
        started = time.perf_counter()
        self._next(prompt, DynamicCache())
        return {"seconds": time.perf_counter() - started, "steps": 0}

    def _next(self, tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """The likeliest next token of each sequence, (B, 1)."""
        output = self._model(
            input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1].argmax(dim=-1, keepdim=True)

    def _decode(self, cell: Cell) -> Record:
        cache = self._caches.get((cell.batch, cell.depth))
        if cache is None:
            cache = DynamicCache()
            if cell.depth:
                rows = range(cell.batch)
                prompts = [random_tokens(self._vocab_size, cell.depth, row) for row in rows]
                self._next(torch.tensor(prompts), cache)
                self._caches[cell.batch, cell.depth] = cache
        current = torch.tensor([random_tokens(self._vocab_size, cell.batch, cell.batch)]).T
        steps = 0
        started = time.perf_counter()
        while steps < cell.steps and time.perf_counter() - started < LONGEST_SECONDS:
            current = self._next(current, cache)
            steps += 1
        seconds = time.perf_counter() - started
        cache.crop(-steps)
        return {"seconds": seconds, "steps": steps}


if __name__ == "__main__":
    peer = Peer()
    answer_questions({"load": peer.load, "run": peer.run})
