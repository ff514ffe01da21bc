"""The engine under test, in this process: the same Engine that the server's child runs.

What is timed is Engine.step(): scheduling, the model, choosing the token and the events, all that
a served token costs short of the socket and the text.
"""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from pathlib import Path

from tribody.core.config import EngineConfig
from tribody.core.request import Request, SamplingParams
from tribody.engine.build import build_engine

KV_BUDGET_BYTES = 1 << 29  # 16 sequences of 1,200 tokens of a model with 23 KB a token


@dataclass(frozen=True, slots=True)
class Shape:
    """One thing to measure.

    prefill: one prompt of `depth` tokens.  decode: `batch` sequences that hold `depth` tokens when
    the timing starts, `steps` steps.
    """

    kind: str  # "prefill" or "decode"
    batch: int
    depth: int
    steps: int

    @property
    def title(self) -> str:
        if self.kind == "prefill":
            return f"prefill, {self.depth} tokens"
        return f"decode, {self.batch} at once, {self.depth} tokens deep"

    @property
    def num_tokens(self) -> int:
        return self.depth if self.kind == "prefill" else self.batch * self.steps


def prompt(vocab_size: int, length: int, seed: int) -> list[int]:
    """Random token ids: the speed does not depend on them, and no two prompts share a prefix."""
    draw = random.Random(seed)
    return [draw.randrange(vocab_size) for _ in range(length)]


class Subject:
    """tribody's engine with one model."""

    def __init__(self, path: Path, num_threads: int, *, weight_format: str) -> None:
        config = EngineConfig(
            model_path=str(path),
            weight_format=weight_format,  # type: ignore[arg-type]  # checked by the engine
            kv_format="float16",
            kv_budget_bytes=KV_BUDGET_BYTES,
            num_threads=num_threads,
            max_running=16,
        )
        self.engine, self.info = build_engine(config, lambda _done, _total: None)
        self._numbers = itertools.count()

    def kv_token_bytes(self) -> float:
        """Bytes of keys and values of one token."""
        return self.info.kv_budget_bytes / (self.info.num_pages * self.info.page_size)

    def _submit(self, length: int, max_tokens: int, seed: int) -> None:
        number = next(self._numbers)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self.engine.submit(
            Request(
                id=f"bench-{number}",
                prompt_token_ids=prompt(self.info.vocab_size, length, seed),
                sampling=sampling,
                cache_salt=f"bench-{number}",  # nothing is found in the prefix cache
            )
        )

    def run(self, shape: Shape, seed: int) -> float:
        """Seconds of the shape's timed part."""
        if shape.kind == "prefill":
            self._submit(shape.depth, 1, seed)
            return self.drain()
        self.fill(shape, seed)
        seconds = self.decode(shape)
        self.drain()
        return seconds

    def fill(self, shape: Shape, seed: int) -> None:
        """Bring a decode shape's sequences to the point where every step decodes all of them."""
        # The first sequences decode while the last are still in prefill; they need spare tokens.
        spare = 2 * (2 + shape.batch * shape.depth // 512)
        for index in range(shape.batch):
            self._submit(max(shape.depth, 1), shape.steps + spare, seed * 1000 + index)
        begun: set[str] = set()
        while len(begun) < shape.batch:
            begun |= {event.request_id for event in self.engine.step()}

    def decode(self, shape: Shape) -> float:
        """Seconds of `shape.steps` steps, after `fill`."""
        started = time.perf_counter()
        num_tokens = sum(len(self.engine.step()) for _ in range(shape.steps))
        seconds = time.perf_counter() - started
        assert num_tokens == shape.num_tokens, "a timed step did not decode every sequence once"
        return seconds

    def drain(self) -> float:
        """Seconds until every request has ended."""
        started = time.perf_counter()
        while self.engine.has_work():
            self.engine.step()
        return time.perf_counter() - started
