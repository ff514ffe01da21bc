"""From a configuration to a running engine: what the engine process and `tribody.LLM` share."""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tribody import _native
from tribody.core.config import PAGE_SIZE, DraftSource, EngineConfig, SchedulerConfig
from tribody.core.engine_info import EngineInfo
from tribody.core.errors import BadConfig, BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.core.version import VERSION
from tribody.engine.engine import Engine
from tribody.engine.guidance import Guidance
from tribody.engine.machine import available_bytes, give_back_memory, physical_cores
from tribody.engine.model_executor import ModelExecutor
from tribody.engine.tuned import find, in_words, kernel_settings, model_key, resolve
from tribody.engine.weight_precision import main_format, precision_of
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.checkpoint_face import Checkpoint
from tribody.loading.packed_cache import PackedSlot, key_of
from tribody.loading.packed_checkpoint import PackedCheckpoint
from tribody.memory.kv_store import KVLayout, KVStore, page_bytes
from tribody.models.config import ModelConfig
from tribody.models.load import has_drafter, load_model
from tribody.models.packed import packed_items
from tribody.models.step_input import Model
from tribody.models.weights import PackedSource, TensorSource
from tribody.ops import native, reference
from tribody.ops.table import Ops
from tribody.scheduling.scheduler import Scheduler
from tribody.text.special_tokens import eos_token_ids
from tribody.text.tokenizer import Tokenizer
from tribody.text.tokenizer_on_demand import TokenizerOnDemand

logger = logging.getLogger(__name__)

LEAST_STRETCH = 1.25  # a fifth of the machine for prompts

Progress = Callable[[int, int], None]  # bytes of weights done, bytes in all
Opened = Callable[[TokenizerSource, str], None]  # told the model type too, before any weights


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine and the parts that a caller in the same process may use beside it."""

    engine: Engine
    info: EngineInfo
    executor: ModelExecutor
    ops: Ops
    text: TokenizerOnDemand
    tokenizer_source: TokenizerSource
    eos_token_ids: frozenset[int]
    model_key: str  # of `engine.tuned`

    @property
    def tokenizer(self) -> Tokenizer:
        """Built when first asked for.  Raises: BadModel if there is none that fits the model."""
        tokenizer = self.text.get()
        tokenizer.check_vocabulary(self.info.vocab_size)
        return tokenizer


def build_engine(
    config: EngineConfig, progress: Progress | None, opened: Opened | None = None
) -> tuple[Engine, EngineInfo]:
    """See `build`."""
    built = build(config, progress, opened)
    return built.engine, built.info


def build(
    config: EngineConfig, progress: Progress | None = None, opened: Opened | None = None
) -> BuiltEngine:
    """Open and load the model, size its KV memory and put an engine around it.

    Raises: BadModel, BadConfig.
    """
    started = time.monotonic()
    ops: Ops = native.OPS if config.ops == "native" else reference.OPS
    with closing(open_checkpoint(Path(config.model_path))) as checkpoint:
        key = model_key(checkpoint.fingerprint, config)
        config, tuning = _tune(config, ops, key)
        if opened is not None:
            opened(checkpoint.tokenizer_source, str(checkpoint.config.get("model_type")))
        text = TokenizerOnDemand(checkpoint.tokenizer_source)
        sources = _draft_sources(config, checkpoint)
        model = _load(config, checkpoint, ops, progress, drafter="mtp" in sources)
        ends = eos_token_ids(text.eos_token_ids, checkpoint.config, checkpoint.generation_config)
        limits, kv_limit = _limits(config, model, sources)
        fingerprint = _fingerprint(checkpoint, config, ops)
        stores = [KVStore(x, limits.num_pages, config.kv_format) for x in _layouts(model)]
        scheduler = Scheduler(limits, ends, fingerprint)
        draft_kv = stores[1] if model.drafter is not None else None
        guidance = Guidance(text.get, model.config.vocab_size, ends)
        executor = ModelExecutor(
            model, ops, stores[0], config.max_step_tokens, draft_kv, guidance=guidance
        )
        info = EngineInfo(
            model_id=checkpoint.name,
            model_type=model.config.model_type,
            vocab_size=model.config.vocab_size,
            hidden_size=model.config.hidden_size,
            max_context_tokens=scheduler.max_context,
            weight_format=main_format(model.weights),
            precision=precision_of(model.weights, checkpoint),
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
        engine = Engine(scheduler, executor, text.get, guidance=guidance)
        source = checkpoint.tokenizer_source
        return BuiltEngine(engine, info, executor, ops, text, source, ends, key)


def _tune(config: EngineConfig, ops: Ops, key: str) -> tuple[EngineConfig, str | None]:
    """The configuration with nothing left open, its part for the kernels being in force, and what
    was tuned, in words.  Raises: BadConfig."""
    tuning = find(Path(config.tuning_dir), ops, key) if config.tuning_dir else None
    settings = {} if tuning is None else tuning.settings
    config = resolve(config, settings, physical_cores())
    check_steps(config)
    _native.set_num_threads(config.num_threads)
    if config.tuning_dir:
        ops.tune(kernel_settings(settings))
    return config, None if tuning is None else in_words(settings)


def check_steps(config: EngineConfig) -> None:
    """What a resolved configuration says of one step.  Raises: BadConfig."""
    if not 1 <= config.max_running <= config.max_step_tokens:
        raise BadConfig(
            f"max_running is {config.max_running}; it must be between 1 and "
            f"max_step_tokens ({config.max_step_tokens}), so that every sequence can decode"
        )
    if config.step_stretch and config.step_stretch < LEAST_STRETCH:
        raise BadConfig(
            f"step_stretch is {config.step_stretch:g}; it must be at least {LEAST_STRETCH:g}, so "
            "that prompts get on, or 0 for no limit"
        )


def _load(
    config: EngineConfig,
    checkpoint: Checkpoint,
    ops: Ops,
    progress: Progress | None,
    *,
    drafter: bool,
) -> Model:
    """The model, mapped from a packed file where there is one, and such a file where there was
    none.  Raises: BadModel.
    """

    def load(source: Checkpoint) -> Model:
        return load_model(source, ops, config.weight_format, progress, drafter=drafter)

    if isinstance(checkpoint, PackedCheckpoint):
        if checkpoint.has_checksums:
            checkpoint.verify(progress)
        return load(checkpoint)
    if not config.packed_dir:
        return load(checkpoint)
    key = key_of(
        {
            "weights": checkpoint.fingerprint,
            "format": config.weight_format,
            "drafter": drafter,
            "ops": ops.name,
            "native": f"{zlib.crc32(Path(_native.__file__).read_bytes()):08x}",
            "tribody": VERSION,
        }
    )
    name = f"{checkpoint.name}-{config.weight_format}"
    slot = PackedSlot(Path(config.packed_dir).expanduser(), name, key)
    model = _mapped(slot, load, progress)
    if model is None:
        model = load(checkpoint)
        if slot.write(checkpoint, packed_items(model.weights), progress):
            model = _mapped(slot, load, progress, just_written=True) or model
            give_back_memory()  # before the KV memory is sized by what is free
    return model


def _mapped(
    slot: PackedSlot,
    load: Callable[[Checkpoint], Model],
    progress: Progress | None,
    *,
    just_written: bool = False,
) -> Model | None:
    packed = slot.open(progress, just_written=just_written)
    try:
        return None if packed is None else load(packed)
    except BadModel as problem:
        logger.warning("event=packed_refused reason=%s", problem)
        return None


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
        step_stretch=config.step_stretch,
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


def _fingerprint(checkpoint: Checkpoint, config: EngineConfig, ops: Ops) -> bytes:
    """The root of the prefix cache's keys: all that decides what a page's bytes are."""
    packed = isinstance(checkpoint, PackedCheckpoint)
    weights = "packed" if packed else config.weight_format
    text = f"{checkpoint.fingerprint}/{weights}/{config.kv_format}/{ops.name}"
    return hashlib.sha256(text.encode()).digest()
