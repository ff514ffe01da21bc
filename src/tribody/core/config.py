"""Configuration of the engine: one frozen record per component, defaults written once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

WeightFormat = Literal[
    "float32", "bfloat16", "float16", "w8g32", "w6g32", "w5m32", "w4m32", "fp4g32", "fp8b"
]
WeightChoice = Literal[WeightFormat, "stored"]  # "stored": as the checkpoint has them
KVFormat = Literal["float32", "float16"]
DraftSource = Literal["mtp", "ngram"]
Speculation = Literal["auto", "mtp", "ngram", "off"]

PAGE_SIZE = 64  # tokens; a multiple of every group size used and of the SIMD widths

KV_SHARE_OF_FREE_MEMORY = 0.4
# The share of free memory that the KV cache takes after the weights are loaded.  The rest is for
# the page cache (memory-mapped weights), the server and whatever else the machine does.


LOGIT_ROWS = 128
# Rows of logits computed at a time, where there is a choice: 128 x 129,280 float32 are 66 MB.

MAX_DRAFTS = 8
# Tokens drafted for one sequence in one step, at most.  How many it is follows from measurements;
# the eighth of a row is still right more often than not where a text repeats itself.


STEP_STRETCH = 3.0
# A step that reads prompts takes at most so many times what it would take to decode alone: prompts
# then get two thirds of the machine.  Between a stream's tokens: the 99th percentile was 3.4, 2.8
# and 2.7 times the median for 4, 8 and 16 clients (bench/serve.py, SmolLM2, one repeat).

BACKGROUND_RUNNING = 8
# Background requests begin only while fewer sequences run: eight share each reading of the weights,
# and whoever comes finds a step that is not much longer than its own.

DEFAULT_STEP_TOKENS = 512
# Tokens that one step computes: 512 rows of a prompt keep the kernels at their best rate, and
# sequences that decode meanwhile wait no longer than that.


def default_tuning_dir(models_dir: Path) -> Path:
    """Beside the folder that fetched models are kept in."""
    return models_dir.parent / "tuning"


def default_packed_dir(models_dir: Path) -> Path:
    """Where packed weights are kept from one start to the next: beside fetched models too."""
    return models_dir.parent / "packed"


def default_data_dir(models_dir: Path) -> Path:
    """Where a server keeps uploaded files and batches: beside fetched models too."""
    return models_dir.parent / "data"


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one step and of the queue."""

    num_pages: int
    max_context_tokens: int
    page_size: int = PAGE_SIZE
    max_step_tokens: int = DEFAULT_STEP_TOKENS  # one budget for decodes and prefill chunks together
    step_stretch: float = STEP_STRETCH  # 0 = no limit but the budget
    max_running: int = 64  # sequences in a step
    max_waiting: int = 1024  # requests in the queue; one more is refused as overloaded
    background_running: int = BACKGROUND_RUNNING
    draft_sources: tuple[DraftSource, ...] = ()  # what may draft tokens; none = no speculation
    max_drafts: int = MAX_DRAFTS


SCRIPTED = "scripted"  # the name of the engine that a ScriptConfig makes


class ScriptConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The scripted engine in place of a model (docs/scripted.md)."""

    tokens_per_second: float = 0.0  # of one stream; 0 = as fast as it goes
    faults: bool = False  # whether a prompt may ask for failures


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one model is loaded and run.  Crosses to the engine process.

    What `tribody tune` may choose (`engine.tuned`) is 0 or "auto" where it is left to it.
    """

    model_path: str  # a folder or a GGUF file on disk, already fetched
    weight_format: WeightChoice = "w8g32"
    kv_format: KVFormat = "float16"
    kv_budget_bytes: int = 0  # 0 = kv_share of the memory that is free after loading
    kv_share: float = KV_SHARE_OF_FREE_MEMORY  # engines on one machine divide it
    num_threads: int = 0  # 0 = as tuned, else physical cores
    max_context_tokens: int = 0  # 0 = what the model allows
    max_step_tokens: int = 0  # 0 = as tuned, else DEFAULT_STEP_TOKENS; at least max_running
    step_stretch: float = STEP_STRETCH
    max_running: int = 64
    max_waiting: int = 1024
    ops: Literal["native", "reference"] = "native"
    speculation: Speculation = "auto"  # "auto": the model's own drafter if it has one, and n-grams
    max_drafts: int = 0  # 0 = as tuned, else MAX_DRAFTS
    tuning_dir: str = ""  # where `tribody tune` leaves what it found; "" = nothing is applied
    packed_dir: str = ""  # where packed weights are kept for the next start; "" = nowhere
    script: ScriptConfig | None = None  # then nothing is read from model_path
