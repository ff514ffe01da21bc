"""From a configuration to a running engine: what the engine process and `tribody.LLM` share."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tribody import _native
from tribody.core.config import PAGE_SIZE, DraftSource, EngineConfig, SchedulerConfig
from tribody.core.engine_info import EngineInfo, WeightPrecision
from tribody.core.errors import BadConfig, BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine.engine import Engine
from tribody.engine.machine import available_bytes, physical_cores
from tribody.engine.model_executor import ModelExecutor
from tribody.engine.tuned import find, in_words, kernel_settings, model_key, resolve
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.packed_checkpoint import PackedCheckpoint
from tribody.memory.kv_store import KVLayout, KVStore, page_bytes
from tribody.models.config import ModelConfig
from tribody.models.load import has_drafter, load_model
from tribody.models.step_input import Model
from tribody.models.weights import PackedSource, TensorSource, Weights
from tribody.ops import native, reference
from tribody.ops.table import Ops
from tribody.scheduling.scheduler import Scheduler
from tribody.text.special_tokens import eos_token_ids
from tribody.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # bytes of weights done, bytes in all


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine and the parts that a caller in the same process may use beside it."""

    engine: Engine
    info: EngineInfo
    executor: ModelExecutor
    ops: Ops
    tokenizer: Tokenizer
    tokenizer_source: TokenizerSource
    eos_token_ids: frozenset[int]
    model_key: str  # of `engine.tuned`


def build_engine(config: EngineConfig, progress: Progress | None) -> tuple[Engine, EngineInfo]:
    """See `build`."""
    built = build(config, progress)
    return built.engine, built.info


def build(config: EngineConfig, progress: Progress | None = None) -> BuiltEngine:
    """Open and load the model, size its KV memory and put an engine around it.

    Raises: BadModel, BadConfig.
    """
    started = time.monotonic()
    ops: Ops = native.OPS if config.ops == "native" else reference.OPS
    with closing(open_checkpoint(Path(config.model_path))) as checkpoint:
        key = model_key(checkpoint.fingerprint, config)
        config, tuning = _tune(config, ops, key)
        tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
        sources = _draft_sources(config, checkpoint)
        model = load_model(
            checkpoint, ops, config.weight_format, progress, drafter="mtp" in sources
        )
        tokenizer.check_vocabulary(model.config.vocab_size)
        ends = eos_token_ids(
            tokenizer.eos_token_ids, checkpoint.config, checkpoint.generation_config
        )
        limits, kv_limit = _limits(config, model, sources)
        fingerprint = _fingerprint(checkpoint.fingerprint, config, ops)
        stores = [KVStore(x, limits.num_pages, config.kv_format) for x in _layouts(model)]
        scheduler = Scheduler(limits, ends, fingerprint)
        draft_kv = stores[1] if model.drafter is not None else None
        executor = ModelExecutor(model, ops, stores[0], config.max_step_tokens, draft_kv)
        info = EngineInfo(
            model_id=checkpoint.name,
            model_type=model.config.model_type,
            vocab_size=model.config.vocab_size,
            max_context_tokens=scheduler.max_context,
            weight_format=_weight_format(model.weights),
            precision=_precision(model.weights, checkpoint),
            kv_format=config.kv_format,
            weight_bytes=model.weights.num_bytes,
            kv_budget_bytes=sum(store.num_bytes for store in stores),
            kv_limit=kv_limit,
            num_pages=limits.num_pages,
            page_size=PAGE_SIZE,
            max_running=config.max_running,
            num_threads=config.num_threads,
            isa=_native.current_isa() if ops.name == "native" else ops.name,
            load_seconds=time.monotonic() - started,
            fingerprint=fingerprint.hex(),
            speculation="+".join(sources) or "off",
            tuning=tuning,
        )
        engine = Engine(scheduler, executor, tokenizer)
        return BuiltEngine(
            engine, info, executor, ops, tokenizer, checkpoint.tokenizer_source, ends, key
        )


def _tune(config: EngineConfig, ops: Ops, key: str) -> tuple[EngineConfig, str | None]:
    """The configuration with nothing left open, its part for the kernels being in force, and what
    was tuned, in words.  Raises: BadConfig."""
    tuning = find(Path(config.tuning_dir), ops, key) if config.tuning_dir else None
    settings = {} if tuning is None else tuning.settings
    config = resolve(config, settings, physical_cores())
    if not 1 <= config.max_running <= config.max_step_tokens:
        raise BadConfig(
            f"max_running is {config.max_running}; it must be between 1 and "
            f"max_step_tokens ({config.max_step_tokens}), so that every sequence can decode"
        )
    _native.set_num_threads(config.num_threads)
    if config.tuning_dir:
        ops.tune(kernel_settings(settings))
    return config, None if tuning is None else in_words(settings)


class _Verification(msgspec.Struct):
    corpus: str
    kl_mean_nats: float


class _Manifest(msgspec.Struct):
    """What is read here of `tuning.manifest.Manifest`."""

    recovery: float
    verification: _Verification


def _weight_format(weights: Weights) -> str:
    """The format of nearly all weights (routers stay float32), else "mixed"."""
    counts = weights.by_format()
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] > 0.98 * sum(counts.values()) else "mixed"


def _precision(weights: Weights, checkpoint: TensorSource | PackedSource) -> WeightPrecision:
    """Counted from the matrices; a packed file's manifest says what they cost."""
    counts = weights.by_format()
    total = sum(counts.values())
    plain = WeightPrecision(
        bits_per_weight=8 * weights.num_bytes / weights.num_weights,
        formats={name: count / total for name, count in counts.items()},
    )
    if not isinstance(checkpoint, PackedCheckpoint) or not checkpoint.manifest:
        return plain
    try:
        stated = msgspec.convert(checkpoint.manifest, _Manifest)
    except msgspec.ValidationError as error:
        raise BadModel(f"{checkpoint.name}: its manifest cannot be read: {error}") from error
    return msgspec.structs.replace(
        plain,
        recovery=stated.recovery,
        kl_mean_nats=stated.verification.kl_mean_nats,
        verified_on=stated.verification.corpus,
    )


def _draft_sources(
    config: EngineConfig, checkpoint: TensorSource | PackedSource
) -> tuple[DraftSource, ...]:
    """What may draft tokens, of what was asked for.  Raises: BadConfig, BadModel."""
    if config.max_drafts < 1:
        raise BadConfig(f"max_drafts is {config.max_drafts}; it must be at least 1")
    if config.speculation == "off":
        return ()
    if config.speculation == "ngram":
        return ("ngram",)
    if has_drafter(checkpoint):
        return ("mtp",) if config.speculation == "mtp" else ("mtp", "ngram")
    if config.speculation == "mtp":
        raise BadConfig(
            "speculation is mtp; this model has no multi-token-prediction module: "
            "use ngram, auto or off"
        )
    return ("ngram",)


def _layouts(model: Model) -> list[KVLayout]:
    """What a page holds: the model's keys and values, and its drafter's if there is one."""
    layouts = [model.kv_layout]
    if model.drafter is not None:
        layouts.append(model.drafter.kv_layout)
    return layouts


def _limits(
    config: EngineConfig, model: Model, sources: tuple[DraftSource, ...]
) -> tuple[SchedulerConfig, str]:
    """The scheduler's limits, pages included, and what set their number: the given budget or a
    share of free memory, but never more pages than every running sequence could fill."""
    max_context = _max_context(config, model.config)
    budget, kv_limit = config.kv_budget_bytes, "as configured"
    if not budget:
        budget = int(config.kv_share * available_bytes())
        kv_limit = f"{config.kv_share:.0%} of free memory"
    size = sum(page_bytes(layout, config.kv_format) for layout in _layouts(model))
    fillable = config.max_running * -(-max_context // PAGE_SIZE)
    num_pages = min(budget // size, fillable)
    if num_pages == fillable:
        kv_limit = f"all that {config.max_running} sequences can fill"
    logger.info(
        "kv_limit_bytes=%d page_bytes=%d pages=%d fillable_pages=%d",
        budget,
        size,
        num_pages,
        fillable,
    )
    if num_pages < 1:
        raise BadConfig(
            f"the KV budget of {budget} bytes holds no page; one page of {PAGE_SIZE} tokens takes "
            f"{size} bytes: give more memory or use a smaller model"
        )
    limits = SchedulerConfig(
        num_pages=num_pages,
        max_context_tokens=max_context,
        max_step_tokens=config.max_step_tokens,
        max_running=config.max_running,
        max_waiting=config.max_waiting,
        draft_sources=sources,
        max_drafts=config.max_drafts,
    )
    return limits, kv_limit


def _max_context(config: EngineConfig, model: ModelConfig) -> int:
    allowed = model.max_position_embeddings
    if config.max_context_tokens > allowed:
        raise BadConfig(
            f"a context of {config.max_context_tokens} tokens was asked for; "
            f"this model has positions for {allowed}"
        )
    return config.max_context_tokens or allowed


def _fingerprint(checkpoint: str, config: EngineConfig, ops: Ops) -> bytes:
    """The root of the prefix cache's keys: all that decides what a page's bytes are."""
    text = f"{checkpoint}/{config.weight_format}/{config.kv_format}/{ops.name}"
    return hashlib.sha256(text.encode()).digest()
