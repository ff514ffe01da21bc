"""llama.cpp as a peer, by llama-cpp-python's low-level API and nothing of its Python wrapper.

What is timed is llama_decode with float16 KV, `n_ubatch` 512, and one KV stream for each sequence
(as llama-batched-bench does), and choosing the tokens (numpy.argmax).  A context is kept for each
depth and attention path: its sequences are filled once and cut back after every timing, so that a
repeat does not pay for 4,096 tokens again.

    quantize {source, target, weights, imatrix} -> {bytes}  one GGUF to another: F16, Q8_0, …
    load     {path, threads, sequences}       -> {vocab_size, weight_bytes, version, …}
    run      {cell, variant, seed}            -> {seconds, steps}
    logits   {tokens, first, target}          -> {}       float32 (rows, V) to a .npy file

`sequences`: how many sequences any cell of a depth will have, by depth (as text); under "prefill"
the longest prompt.  `variant` "flash" or "no flash" picks the attention path; the caller measures
both and keeps the faster, because which one that is depends on the machine, the depth and the
batch.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from cells import LLAMA_VARIANTS, Cell, random_tokens
from peers.loop import Record, answer_questions

FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17}  # llama_ftype
UBATCH = 512  # llama.cpp's own default; also tribody's step budget
LOGGED_LEVELS = (4,)  # ggml_log_level: errors
ROOM = 256  # tokens beyond the depth: the steps of a cell, in whole KV pages of 256

Row = tuple[int, int, int, bool]  # token, position, sequence, are its logits wanted?


def _log(level: int, text: bytes, _user_data: object) -> None:
    if level in LOGGED_LEVELS:
        sys.stderr.write(text.decode("utf-8", errors="replace"))


def quantize(source: str, target: str, weights: str, imatrix: str = "") -> Record:
    """As llama-quantize does; whole or not there at all.

    `imatrix`: an .npz file of importance by tensor, the inputs' mean squares; "" for none.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[weights]
    params.allow_requantize = True
    if imatrix:
        with np.load(imatrix) as file:
            arrays = {name: np.ascontiguousarray(file[name], np.float32) for name in file.files}
        params.imatrix = _importance(arrays)
    partial = target + ".part"
    if llama_cpp.llama_model_quantize(source.encode(), partial.encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize failed: {source} -> {target}")
    os.replace(partial, target)
    return {"bytes": Path(target).stat().st_size}


def _importance(arrays: dict[str, NDArray[np.float32]]) -> ctypes.Array[ctypes.Structure]:
    """The C array, which ends with a record without a name; it holds on to the numbers."""
    kind = llama_cpp.llama_model_imatrix_data
    pointer = ctypes.POINTER(ctypes.c_float)
    records: ctypes.Array[ctypes.Structure] = (kind * (len(arrays) + 1))()
    for record, (name, array) in zip(records, arrays.items(), strict=False):
        record.name, record.size = name.encode(), array.size
        record.data = array.ctypes.data_as(pointer)
    return records


class _BufferOverride(ctypes.Structure):
    """llama_model_tensor_buft_override"""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


class PlainMemory:
    """Keeps llama.cpp from giving latent attention's per-head matrices to AMX.

    On a machine with AMX it lays them out for AMX when it loads them and then finds that AMX cannot
    multiply them with its permuted queries: it aborts (ggml-backend.cpp, cur_backend_id != -1).
    These tensors go to ordinary memory; all others stay where llama.cpp puts them.  Naming its own
    type of ordinary memory would make it choose again, so a copy of that type's record is named.
    """

    RECORD_BYTES = 64  # ggml_backend_buffer_type: six functions, a device and a context

    def __init__(self) -> None:
        library = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
        find = ctypes.CDLL(str(library)).ggml_backend_cpu_buffer_type
        find.restype = ctypes.c_void_p
        self._record = ctypes.create_string_buffer(
            ctypes.string_at(find(), self.RECORD_BYTES), self.RECORD_BYTES
        )
        self._overrides = (_BufferOverride * 2)(
            _BufferOverride(b"attn_[kv]_b", ctypes.addressof(self._record)),
            _BufferOverride(None, None),
        )

    @property
    def overrides(self) -> int:
        """For llama_model_params; this object must outlive the model."""
        return ctypes.addressof(self._overrides)


class Context:
    """Sequences of one depth on one attention path; `filled` of them hold that many tokens."""

    def __init__(self, model: object, threads: int, sequences: int, room: int, flash: bool) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * room
        params.n_batch = params.n_ubatch = UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if flash
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("llama_init_from_model failed")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(UBATCH, 0, 1)
        self.filled = 0

    def cut(self, sequence: int, length: int) -> None:
        """Forget all but the first `length` tokens of a sequence."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise RuntimeError("llama_memory_seq_rm refused to cut a sequence")

    def run(self, rows: Sequence[Row]) -> float:
        """Compute rows; seconds until the results are there, filling the batch not counted."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        started = time.perf_counter()
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        llama_cpp.llama_synchronize(self._context)
        return time.perf_counter() - started

    def read(self, tokens: Sequence[int], sequence: int, *, logits: bool) -> float:
        """Compute a prompt in pieces of UBATCH, with the last token's logits or none."""
        seconds = 0.0
        wanted = len(tokens) - 1 if logits else -1
        for first in range(0, len(tokens), UBATCH):
            part = enumerate(tokens[first : first + UBATCH], start=first)
            seconds += self.run([(token, at, sequence, at == wanted) for at, token in part])
        return seconds

    def logits(self, row: int, vocab_size: int) -> NDArray[np.float32]:
        """A view that the next run overwrites."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(vocab_size,))


class Peer:
    """One loaded model and its contexts."""

    def load(self, path: str, threads: int, sequences: dict[str, int]) -> Record:
        started = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        self._memory = PlainMemory()
        params.tensor_buft_overrides = self._memory.overrides
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._threads = threads
        self._sequences = sequences
        self._contexts: dict[tuple[int, str], Context] = {}
        system = llama_cpp.llama_print_system_info().decode()
        return {
            "vocab_size": self._vocab_size,
            "weight_bytes": int(llama_cpp.llama_model_size(self._model)),
            "load_seconds": time.perf_counter() - started,
            "system": ", ".join(re.findall(r"(\w+) = 1", system)),
            "version": f"llama-cpp-python {llama_cpp.__version__}",
        }

    def _context(self, depth: int, variant: str) -> Context:
        """The context of a depth; depth 0 is also used for prompts, one after another."""
        context = self._contexts.get((depth, variant))
        if context is None:
            sequences = self._sequences.get(str(depth), 1)
            room = (depth or self._sequences.get("prefill", 0)) + ROOM
            context = Context(self._model, self._threads, sequences, room, LLAMA_VARIANTS[variant])
            self._contexts[depth, variant] = context
        return context

    def run(self, cell: dict[str, object], variant: str, seed: int) -> Record:
        wanted = Cell(**cell)  # type: ignore[arg-type]
        if wanted.kind == "prefill":
            return self._prefill(wanted, variant, seed)
        return self._decode(wanted, variant)

    def _prefill(self, cell: Cell, variant: str, seed: int) -> Record:
        context = self._context(0, variant)
        seconds = context.read(random_tokens(self._vocab_size, cell.depth, seed), 0, logits=True)
        started = time.perf_counter()
        context.logits(-1, self._vocab_size).argmax()
        seconds += time.perf_counter() - started
        context.cut(0, 0)
        return {"seconds": seconds, "steps": 0}

    def _decode(self, cell: Cell, variant: str) -> Record:
        context = self._context(cell.depth, variant)
        for sequence in range(context.filled, cell.batch if cell.depth else 0):
            context.read(
                random_tokens(self._vocab_size, cell.depth, sequence), sequence, logits=False
            )
            context.filled = sequence + 1
        current = random_tokens(self._vocab_size, cell.batch, cell.batch)
        seconds = 0.0
        for step in range(cell.steps):
            position = cell.depth + step
            seconds += context.run([(t, position, s, True) for s, t in enumerate(current)])
            started = time.perf_counter()
            current = [
                int(context.logits(row, self._vocab_size).argmax()) for row in range(cell.batch)
            ]
            seconds += time.perf_counter() - started
        for sequence in range(cell.batch):
            context.cut(sequence, cell.depth)
        return {"seconds": seconds, "steps": cell.steps}

    def logits(self, tokens: list[int], first: int, target: str) -> Record:
        """What llama.cpp predicts after each of the tokens from `first` on, one sequence."""
        context = self._context(0, "no flash")
        context.run([(token, at, 0, at >= first) for at, token in enumerate(tokens)])
        rows = [context.logits(row, self._vocab_size).copy() for row in range(first, len(tokens))]
        np.save(target, np.stack(rows))
        context.cut(0, 0)
        return {}


def main() -> None:
    log = llama_cpp.llama_log_callback(_log)  # kept alive for as long as the program runs
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    peer = Peer()
    answer_questions(
        {"quantize": quantize, "load": peer.load, "run": peer.run, "logits": peer.logits}
    )


if __name__ == "__main__":
    main()
