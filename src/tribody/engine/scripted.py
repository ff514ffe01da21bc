"""An engine without a model: a script stands where the model would, all else is the engine's own.

The process, the protocol, the scheduler, pages, prefix cache and sampler are those of every engine;
only the executor's logits come from a script (`scripted_answers`), which reads the conversation out
of the prompt's token ids.  So what a test sees of tools, JSON, thinking, usage and errors is the
server's doing, and a benchmark at a fixed rate measures what the server adds.

A scripted token is certain (SURE nats above the others), so that it is drawn at any temperature;
`logit_bias`, penalties, grammars and `[[random: N]]` take the sampler's usual way from there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tribody.core.clock import Clock, MonotonicClock
from tribody.core.config import (
    PAGE_SIZE,
    SCRIPTED,
    EngineConfig,
    SchedulerConfig,
    ScriptConfig,
)
from tribody.core.engine_info import EngineInfo
from tribody.core.errors import BadConfig, EngineFailed
from tribody.core.request import SampleSlot, StepPlan, StepResult
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine.build import check_steps
from tribody.engine.engine import Engine
from tribody.engine.guidance import Guidance
from tribody.engine.pooling import add_states
from tribody.engine.sampler import sample
from tribody.engine.scripted_answers import Fault, Part, Plain, RandomLetters, answer
from tribody.engine.scripted_following import Followed, Order
from tribody.engine.scripted_text import read, tokenizer_source
from tribody.engine.tuned import resolve
from tribody.ops import native
from tribody.ops.table import F32
from tribody.scheduling.scheduler import Scheduler
from tribody.text.tokenizer import Tokenizer

CONTEXT_TOKENS = 32_768
MOST_CONTEXT_TOKENS = 1 << 20
HIDDEN_SIZE = 64  # of its embeddings
TOKEN_BYTES = 1024  # what a token is said to take of --kv-memory, so that memory can run short

SURE = 80.0
# Nats between a scripted token and any other.  At temperature 2 the other 280 together have 1e-15
# of the probability; a logit_bias of -100 still forbids a token and one of 100 forces one.
UNREADABLE = 10.0  # nats below the others: what stands in for a forbidden token can be read
STEP_DOWN = 40.0  # nats between tokens that a grammar chooses among: the first is as sure

RANDOM = -1  # in a script: a letter that the sampler draws
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REQUESTS_KNOWN = 4  # for each that may run: the preempted ones too; a forgotten one is read again
DEAD = 70  # the exit status of a process that was told to die (EX_SOFTWARE)


@dataclass
class Script:
    """The tokens of one answer, the end included, and what happens before some of them."""

    tokens: list[int]
    faults: dict[int, list[Fault]]

    def at(self, position: int, *, ignore_eos: bool) -> int:
        """The token at `position`; an answer that may not end begins again, and a request that
        goes on behind its end gets the end again."""
        if ignore_eos and len(self.tokens) > 1:
            return self.tokens[position % (len(self.tokens) - 1)]
        return self.tokens[min(position, len(self.tokens) - 1)]


@dataclass
class _Known:
    """One request's script and how far each of its choices has been followed."""

    script: Script
    choices: dict[int, Followed] = field(default_factory=dict)


class ScriptedExecutor:
    """Draws the tokens of scripts; it holds no keys and values, and page copies are nothing.

    `guidance`: the engine's, which prepares the grammars that draws follow.  `sleep` and `die` are
    the process's, for tests to replace.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: ScriptConfig,
        *,
        max_running: int = 64,
        guidance: Guidance | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        die: Callable[[], object] = lambda: os._exit(DEAD),
    ) -> None:
        self._tokenizer = tokenizer
        self._faults = config.faults
        self._guidance = guidance
        self._step_seconds = 1 / config.tokens_per_second if config.tokens_per_second else 0.0
        self._clock = clock or MonotonicClock()
        self._sleep, self._die = sleep, die
        (self._end,) = tokenizer.eos_token_ids
        self._order = Order(tokenizer, self._end)
        self._unscripted = np.full(tokenizer.vocab_size, -SURE - UNREADABLE, np.float32)
        readable = self._order.ordinary
        self._unscripted[readable] = -SURE - 0.01 * np.arange(len(readable))
        self._letters = tokenizer.encode(LETTERS, add_special_tokens=False)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._most_known = REQUESTS_KNOWN * max_running
        self._states = _states(tokenizer.vocab_size)

    def run(self, plan: StepPlan) -> StepResult:
        """See `Executor.run`."""
        started = self._clock.now()
        slots = [slot for chunk in plan.chunks for slot in chunk.samples]
        result = StepResult(plan.step_id, [])
        for chunk in plan.chunks:
            if chunk.hidden_sum is not None:
                states = self._states[chunk.token_ids]
                result.hidden_sums[chunk.sequence_id] = add_states(chunk, states)
        if slots:
            logits = np.tile(self._unscripted, (len(slots), 1))
            for row, slot in zip(logits, slots, strict=True):
                self._fill(row, slot)
            rows = np.arange(len(slots))
            result.tokens = sample(native.OPS, logits, slots, rows, self._guidance)
        if self._step_seconds and plan.chunks:
            self._sleep(max(0.0, started + self._step_seconds - self._clock.now()))
        return result

    def _fill(self, row: F32, slot: SampleSlot) -> None:
        """Set a row (V,), which holds `_unscripted`.

        Raises: EngineFailed if the script wants the whole step to fail.
        """
        known = self._request(slot)
        begins = slot.choice not in known.choices
        followed = self._follow(known, slot)
        position = len(slot.generated) + len(slot.drafts)
        # A request that another process had begun is spared what ended that one.
        spared = begins and bool(slot.generated)
        faults = [] if spared else known.script.faults.get(position, [])
        for fault in faults:
            self._happens(fault)
        params = slot.params
        row -= abs(params.presence_penalty) + abs(params.frequency_penalty) * position
        if params.grammar is not None:
            ranked = self._order.ranked(followed)
            row[ranked] -= STEP_DOWN * np.arange(len(ranked), dtype=np.float32)
        if followed.on_script:
            token = known.script.at(position, ignore_eos=params.ignore_eos)
            row[self._letters if token == RANDOM else token] = 0
        if any(fault.kind == "fail" for fault in faults):
            row[:] = np.nan  # as a damaged model's

    def _happens(self, fault: Fault) -> None:
        if fault.kind == "hang":
            self._sleep(fault.seconds)
        elif fault.kind == "die":
            self._die()
        elif fault.whole_step:
            raise EngineFailed("the script says so")

    def _request(self, slot: SampleSlot) -> _Known:
        known = self._known.get(slot.request_id)
        if known is None:
            prompt = self._tokenizer.decode(slot.prompt_token_ids, skip_special_tokens=False)
            parts = answer(read(prompt), faults=self._faults)
            known = self._known[slot.request_id] = _Known(self.script(parts))
            if len(self._known) > self._most_known:
                self._known.popitem(last=False)
        self._known.move_to_end(slot.request_id)
        return known

    def _follow(self, known: _Known, slot: SampleSlot) -> Followed:
        """What was generated, drafts included, beside the script."""
        followed = known.choices.setdefault(slot.choice, Followed())
        if slot.params.grammar is None:
            return followed
        endless = slot.params.ignore_eos
        self._take(known.script, followed, slot.generated, ignore_eos=endless)
        if slot.drafts:
            followed = followed.copy()
            drafted = slot.generated + slot.drafts
            self._take(known.script, followed, drafted, ignore_eos=endless)
        return followed

    def _take(
        self, script: Script, followed: Followed, tokens: list[int], *, ignore_eos: bool
    ) -> None:
        for position in range(followed.length, len(tokens)):
            wanted = script.at(position, ignore_eos=ignore_eos)
            followed.on_script &= wanted in (tokens[position], RANDOM)
            self._order.take(followed, tokens[position])

    def script(self, parts: list[Part]) -> Script:
        """The tokens of an answer."""
        tokens: list[int] = []
        faults: dict[int, list[Fault]] = {}
        for part in parts:
            if isinstance(part, Fault):
                faults.setdefault(len(tokens), []).append(part)
            elif isinstance(part, RandomLetters):
                tokens += [RANDOM] * part.count
            else:
                tokens += self._tokenizer.encode(
                    part.text,
                    add_special_tokens=False,
                    parse_special=not isinstance(part, Plain),
                )
        return Script([*tokens, self._end], faults)


def _states(vocab_size: int) -> F32:
    """A token's hidden state (V, HIDDEN_SIZE), whatever is around it: texts of the same tokens have
    the same embedding, and those that share more tokens have nearer ones."""
    tokens = np.arange(vocab_size)[:, None]
    places = np.arange(HIDDEN_SIZE)[None, :]
    return ((tokens + 1) * (2 * places + 1) % 257 - 128).astype(np.float32)


def build_scripted(
    config: EngineConfig,
    script: ScriptConfig,
    opened: Callable[[TokenizerSource, str], None] | None = None,
) -> tuple[Engine, EngineInfo]:
    """The engine for a script, as `build.build_engine` makes one for a model.

    Raises: BadConfig.
    """
    started = time.monotonic()
    source = tokenizer_source()
    if opened is not None:
        opened(source, SCRIPTED)
    tokenizer = Tokenizer.from_source(source)
    limits, kv_limit = _limits(config, script)
    encoder = msgspec.json.Encoder(order="deterministic")
    fingerprint = hashlib.sha256(encoder.encode(source)).digest()
    scheduler = Scheduler(limits, tokenizer.eos_token_ids, fingerprint)
    guidance = Guidance(lambda: tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
    executor = ScriptedExecutor(
        tokenizer, script, max_running=limits.max_running, guidance=guidance
    )
    rate = f"{script.tokens_per_second:g} tokens/s" if script.tokens_per_second else "no model"
    info = EngineInfo(
        model_id=SCRIPTED,
        model_type=SCRIPTED,
        vocab_size=tokenizer.vocab_size,
        hidden_size=HIDDEN_SIZE,
        max_context_tokens=scheduler.max_context,
        weight_format="none",
        kv_format="none",
        weight_bytes=0,
        kv_budget_bytes=0,
        kv_limit=kv_limit,
        num_pages=limits.num_pages,
        page_size=PAGE_SIZE,
        max_running=limits.max_running,
        num_threads=1,
        isa=rate,
        load_seconds=time.monotonic() - started,
        fingerprint=fingerprint.hex(),
        speculation="+".join(limits.draft_sources) or "off",
    )
    return Engine(scheduler, executor, lambda: tokenizer, guidance=guidance), info


def _limits(config: EngineConfig, script: ScriptConfig) -> tuple[SchedulerConfig, str]:
    """Raises: BadConfig."""
    asked = config.speculation
    config = resolve(config, {}, 1)
    check_steps(config)
    if script.faults and asked == "ngram":
        raise BadConfig(
            "speculation is ngram, which runs ahead of the faults that a script may hold: "
            "leave out one of them"
        )
    if asked == "mtp":
        raise BadConfig("speculation is mtp; a script has no drafter: use ngram or off")
    if config.max_context_tokens > MOST_CONTEXT_TOKENS:
        raise BadConfig(
            f"a context of {config.max_context_tokens} tokens was asked for; "
            f"the scripted engine has at most {MOST_CONTEXT_TOKENS}"
        )
    context = config.max_context_tokens or CONTEXT_TOKENS
    fillable = config.max_running * -(-context // PAGE_SIZE)
    num_pages, kv_limit = fillable, f"all that {config.max_running} sequences can fill"
    if config.kv_budget_bytes:
        num_pages = min(config.kv_budget_bytes // (PAGE_SIZE * TOKEN_BYTES), fillable)
        kv_limit = f"as configured, at {TOKEN_BYTES} bytes a token"
        if num_pages < 1:
            raise BadConfig(
                f"the KV budget of {config.kv_budget_bytes} bytes holds no page; give at least "
                f"{PAGE_SIZE * TOKEN_BYTES}"
            )
    limits = SchedulerConfig(
        num_pages=num_pages,
        max_context_tokens=context,
        max_step_tokens=config.max_step_tokens,
        step_stretch=config.step_stretch,
        max_running=config.max_running,
        max_waiting=config.max_waiting,
        draft_sources=("ngram",) if asked == "ngram" else (),
        max_drafts=config.max_drafts,
    )
    return limits, kv_limit
