"""llama.cpp as a peer: a small program that measures when it is told to.

Runs in .venv-bench (llama-cpp-python, no tribody) as a child of bench/engine.py, so that repeats
of the two engines can be interleaved in one run.  Speaks JSON lines over stdin and stdout: one
object with an "op" in, one object out.  Uses llama_cpp's low-level API and nothing of its Python
wrapper.  What is timed is llama_decode with float16 KV, `n_ubatch` 512, and one KV stream for each
sequence (as llama-batched-bench does).

    quantize  {source, target}           -> {bytes}       a GGUF of any type -> F16 -> Q8_0
    load      {path, threads, context, extra_buffers}
                                         -> {vocab_size, weight_bytes, system, version, …}
    prefill   {tokens, flash}            -> {seconds}     one prompt, the last token's logits
    decode    {batch, depth, steps, flash, seed}
                                         -> {seconds, decode_seconds}

`decode` fills `batch` sequences to `depth` tokens, untimed, and then times `steps` greedy steps:
`seconds` includes choosing the tokens (numpy.argmax), `decode_seconds` is llama_decode alone.
`flash` picks the attention path; the caller measures both and keeps the faster, because which one
that is depends on the machine, the depth and the batch.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

F16 = 1  # llama_ftype
Q8_0 = 7
UBATCH = 512  # llama.cpp's own default; also tribody's step budget
LOGGED_LEVELS = (4,)  # ggml_log_level: errors

Record = dict[str, object]


def _log(level: int, text: bytes, _user_data: object) -> None:
    if level in LOGGED_LEVELS:
        sys.stderr.write(text.decode("utf-8", errors="replace"))


def quantize(source: str, target: str) -> Record:
    """Re-encode a GGUF to Q8_0 through F16, so that both engines run the same weights in 8 bits."""
    half = target + ".f16"
    for read, written, kind in ((source, half, F16), (half, target + ".part", Q8_0)):
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = kind
        params.allow_requantize = True
        if llama_cpp.llama_model_quantize(read.encode(), written.encode(), ctypes.byref(params)):
            raise RuntimeError(f"llama_model_quantize failed: {read} -> {written}")
    os.replace(target + ".part", target)
    os.unlink(half)
    return {"bytes": Path(target).stat().st_size}


class Peer:
    """One loaded model and a context made anew for each batch size."""

    def __init__(
        self, path: str, threads: int, context: int, *, extra_buffers: bool = True
    ) -> None:
        started = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = extra_buffers
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.load_seconds = time.perf_counter() - started
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.weight_bytes = int(llama_cpp.llama_model_size(self._model))
        self._threads = threads
        self._tokens_per_sequence = context
        self._context: object = None
        self._shape = (0, False)  # (sequences, flash attention) of the context
        self._batch = llama_cpp.llama_batch_init(UBATCH, 0, 1)

    def _use(self, num_sequences: int, *, flash: bool) -> None:
        """Have an empty context for that many sequences."""
        if self._shape != (num_sequences, flash):
            if self._context is not None:
                llama_cpp.llama_free(self._context)
            params = llama_cpp.llama_context_default_params()
            params.n_ctx = self._tokens_per_sequence * num_sequences
            params.n_batch = params.n_ubatch = UBATCH
            params.n_seq_max = num_sequences
            params.n_threads = params.n_threads_batch = self._threads
            params.flash_attn_type = (
                llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
                if flash
                else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            )
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16
            params.kv_unified = False
            self._context = llama_cpp.llama_init_from_model(self._model, params)
            if not self._context:
                raise RuntimeError("llama_init_from_model failed")
            self._shape = (num_sequences, flash)
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)

    def _fill(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Put (token, position, sequence, wants logits) into the batch; not part of any timing."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits

    def _run(self) -> float:
        """Compute the batch; seconds until its results are there."""
        started = time.perf_counter()
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        llama_cpp.llama_synchronize(self._context)
        return time.perf_counter() - started

    def _best(self, row: int) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))
        return int(logits.argmax())

    def _read_prompt(self, tokens: Sequence[int], sequence: int, *, logits: bool) -> float:
        """Compute a prompt in pieces of UBATCH, with the last token's logits or none."""
        seconds = 0.0
        for first in range(0, len(tokens), UBATCH):
            part = tokens[first : first + UBATCH]
            last = len(tokens) - 1 if logits else -1
            self._fill([(t, first + i, sequence, first + i == last) for i, t in enumerate(part)])
            seconds += self._run()
        return seconds

    def prefill(self, tokens: Sequence[int], *, flash: bool) -> Record:
        self._use(1, flash=flash)
        seconds = self._read_prompt(tokens, 0, logits=True)
        started = time.perf_counter()
        self._best(-1)
        return {"seconds": seconds + time.perf_counter() - started}

    def decode(self, batch: int, depth: int, steps: int, *, flash: bool, seed: int) -> Record:
        self._use(batch, flash=flash)
        draw = random.Random(seed)
        for sequence in range(batch):
            prompt = [draw.randrange(self.vocab_size) for _ in range(depth)]
            self._read_prompt(prompt, sequence, logits=False)
        current = [draw.randrange(self.vocab_size) for _ in range(batch)]
        decode_seconds = argmax_seconds = 0.0
        for step in range(steps):
            self._fill([(token, depth + step, s, True) for s, token in enumerate(current)])
            decode_seconds += self._run()
            started = time.perf_counter()
            current = [self._best(row) for row in range(batch)]
            argmax_seconds += time.perf_counter() - started
        return {"seconds": decode_seconds + argmax_seconds, "decode_seconds": decode_seconds}


def _answer(peer: Peer | None, request: Record) -> tuple[Peer | None, Record]:
    op = request.pop("op")
    arguments: dict[str, object] = request
    if op == "quantize":
        return peer, quantize(str(request["source"]), str(request["target"]))
    if op == "load":
        loaded = Peer(**arguments)  # type: ignore[arg-type]
        return loaded, {
            "vocab_size": loaded.vocab_size,
            "weight_bytes": loaded.weight_bytes,
            "load_seconds": loaded.load_seconds,
            "system": llama_cpp.llama_print_system_info().decode(),
            "version": llama_cpp.__version__,
        }
    if peer is None:
        raise RuntimeError(f"{op} before load")
    if op == "prefill":
        return peer, peer.prefill(**arguments)  # type: ignore[arg-type]
    if op == "decode":
        return peer, peer.decode(**arguments)  # type: ignore[arg-type]
    raise RuntimeError(f"unknown op {op!r}")


def main() -> None:
    log = llama_cpp.llama_log_callback(_log)  # kept alive for as long as the program runs
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    peer: Peer | None = None
    for line in sys.stdin:
        peer, answer = _answer(peer, json.loads(line))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
